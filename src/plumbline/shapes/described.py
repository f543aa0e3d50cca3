"""What shapes.json holds."""

from typing import NotRequired, TypedDict


class SizeCount(TypedDict):
    """Images of one size, in pixels."""

    height: int
    width: int
    images: int


class ImageShape(TypedDict):
    """Of the distinct images."""

    sizes: list[SizeCount]
    """Most frequent first."""


class AudioShape(TypedDict):
    """Of the distinct clips."""

    clips: int
    sample_rates: dict[str, int]
    """Hz -> clips."""
    channels: dict[str, int]
    """Channels -> clips."""
    longest_s: float
    mean_s: float


class FeatureShape(TypedDict):
    """Of the distinct feature arrays; without any, the declared channels alone."""

    arrays: int
    channels: int
    shortest: NotRequired[int]
    longest: NotRequired[int]
    mean: NotRequired[float]
    mean_of_channels: NotRequired[list[float]]
    std_of_channels: NotRequired[list[float]]


class TextShape(TypedDict):
    """Of a text column."""

    rows: int
    longest_chars: int
    mean_chars: float
    longest_turns: NotRequired[int]
    """Of conversations, whose characters are those that their turns say."""
    mean_turns: NotRequired[float]


class AnswerCounts(TypedDict):
    """Of the answers of train."""

    distinct: int
    most_frequent: dict[str, int]


class LabelShape(TypedDict):
    """Of a part with labels."""

    classes: list[str]
    counts: dict[str, dict[str, int]]
    """Split -> class -> rows."""
    balanced_weights: list[float]


class ValueShape(TypedDict):
    """Of the numbers that train has of a part."""

    count: int
    mean: float
    std: float
    min: float
    max: float


class Described(TypedDict, total=False):
    """What one look at the data says; absent is what the dataset does not have."""

    image: ImageShape
    audio: AudioShape
    features: FeatureShape
    texts: dict[str, TextShape]
    """By column."""
    answers: AnswerCounts
    labels: dict[str, LabelShape]
    """By part, as is `values`."""
    values: dict[str, ValueShape]
    repeated_rows: dict[str, int]
    """Split -> rows that equal another one before them."""
    contradictions: dict[str, dict[str, int]]
    """Part -> split -> inputs with several labels or values."""


class Shapes(Described):
    """The whole of shapes.json."""

    rows: dict[str, int]
    """By split."""
