"""What cache.json holds: what a reader of the training cache must know of it."""

from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from plumbline.shapes.described import LabelShape, ValueShape
    from plumbline.tokenization.chat_template import ImageText


class Ids(TypedDict):
    """Token ids that frame and fill texts."""

    pad: int
    bos: int
    eos: int


class ShardFacts(TypedDict):
    """Where media lie that are encoded."""

    form: Literal["source", "png"]
    """As they came; or resized already, as PNG."""
    starts: list[int]
    """[shards] the number of the first medium of each."""
    store: NotRequired[str]
    """URL of the folder of an object store that they lie in; not there: they lie in the cache."""
    digests: NotRequired[list[str]]
    """[shards] SHA-256 of each, which is its name there."""


class AudioFacts(TypedDict):
    """Of the clips."""

    clips: int
    sample_rate: int
    """Hz."""
    longest_samples: int
    beyond_range: NotRequired[int]
    """Clips whose samples go far beyond -1..1, as floats that were never scaled do."""
    shards: NotRequired[ShardFacts]
    """Not there: they are decoded, in audio.bin."""


class FeatureFacts(TypedDict):
    """Of features.bin."""

    arrays: int
    longest: int
    """Steps."""
    channels: int
    mean_of_channels: list[float]
    std_of_channels: list[float]


class ResizeFacts(TypedDict):
    """How images got their size: the fields of `plumbline.data.resizing.Resize`."""

    resample: str
    keep_ratio: bool
    crop: float
    longest_edge: NotRequired[int]


class MediaFacts(TypedDict, total=False):
    """Of the media that the dataset has."""

    images: int
    image_shape: list[int]
    """[height, width, channels]."""
    image_layout: Literal["planes"]
    """How they lie in images.bin; not there: in no such file, or one of an older version."""
    image_levels: list[int]
    """The darkest and the brightest of 0 to 255."""
    image_resize: ResizeFacts
    """How they were made; not there: they are as they were, or stretched by a bicubic filter."""
    image_shards: ShardFacts
    """Not there: they are decoded, in images.bin."""
    audio: AudioFacts
    features: FeatureFacts


class ChatFormat(TypedDict):
    """How turns become text."""

    template: str
    """In Jinja."""
    tokens: dict[str, str]
    """What it may name beside the turns, such as `bos_token`."""
    image: NotRequired["ImageText"]
    """How an image stands in the text; not there: as the mark in what its turn says."""


class ChatFacts(ChatFormat):
    """Of turns.arrow."""

    end: int
    """Id of the special token that ends an answer."""
    conversations: int
    longest_tokens: int


class WrittenFacts(MediaFacts):
    """Of what was written, as the writer has counted it."""

    parts: list[str]
    texts: int
    longest_text_tokens: int
    lost_labels: dict[str, int]
    """Rows by split."""
    cut_answers: dict[str, int]
    """Rows by split."""
    chat: NotRequired[ChatFacts]
    """Not there: the dataset has no conversations."""


class CacheFacts(WrittenFacts):
    """The whole of cache.json."""

    rows: dict[str, int]
    """By split."""
    vocab_size: int
    special_ids: Ids | None
    """None: the dataset has no text."""
    max_tokens: int | None
    labels: "dict[str, LabelShape]"
    """By part."""
    values: "dict[str, ValueShape]"
    """By part."""
