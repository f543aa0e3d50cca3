"""Section `tokenize` of a dataset."""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from plumbline.config import Config
from plumbline.data.audio_headers import MAX_SAMPLE_RATE
from plumbline.data.resizing import Resize
from plumbline.objects.settings import ObjectsConfig
from plumbline.objects.stores import scheme_of
from plumbline.tokenization.tokenizer import TokenizerConfig

ImageMode = Literal["rgb", "gray"]


class TokenizeConfig(Config):
    """Section `tokenize` of a dataset."""

    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    """Where the tokenizer comes from."""
    image_size: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=2, max_length=2)
    """Height and width of the cached images, in pixels; None: the one size that all have."""
    image_resize: Resize | None = None
    """How they get it; None: both sides are stretched by a bicubic filter."""
    image_mode: ImageMode = "rgb"
    """Channels of the cached images: three, or one with the luma of ITU-R 601."""
    sample_rate: int = Field(16_000, ge=1000, le=MAX_SAMPLE_RATE)
    """Of the cached audio, in Hz; other rates are resampled."""
    max_tokens: int | None = Field(None, ge=2)
    """Longest question and answer together with what frames them; None: no limit here."""
    chat_template: str | None = None
    """In Jinja, in place of the one that the folder of `tokenizer.pretrained` has."""
    decoded_gb: float | None = Field(32.0, ge=0.0)
    """Decoded images of up to so many GiB are cached as such, and so are clips. More stay encoded,
    in shards, and are decoded each time by who reads them; None: never."""
    shard_mb: float = Field(64.0, gt=0.0)
    """Size of such a shard, in MiB; the loader shuffles within `loader.shuffle_shards` of them."""

    shards_at: str | None = None
    """Where such shards lie: `s3://bucket/prefix` or `gs://bucket/prefix`, as of `objects`. A
    training copies those that it needs next; None: in the cache."""

    @field_validator("shards_at")
    @classmethod
    def _can_be_written(cls, url: str | None) -> str | None:
        if url is not None and scheme_of(ObjectsConfig(url=url).url) == "hf":
            raise ValueError("shards are not written to hf://")
        return url

    @model_validator(mode="after")
    def _has_shards_to_put(self) -> "TokenizeConfig":
        if self.shards_at is not None and self.decoded_gb is None:
            raise ValueError(
                f"shards_at {self.shards_at!r} and decoded_gb null contradict: whatever is "
                "decoded lies in no shard; leave one of them out"
            )
        return self

    @property
    def decoded_bytes(self) -> float:
        """Most that the decoded media of a column take."""
        return math.inf if self.decoded_gb is None else self.decoded_gb * 2**30

    @model_validator(mode="after")
    def _resizes_to_a_size(self) -> "TokenizeConfig":
        if self.image_resize is not None:
            self.image_resize.check_size(self.image_size)
        return self

    @model_validator(mode="after")
    def _template_has_its_tokens(self) -> "TokenizeConfig":
        if self.chat_template is not None and not self.tokenizer.pretrained:
            raise ValueError(
                "chat_template is set, but tokenizer.pretrained is not: a tokenizer that is "
                "trained here has the special tokens of its own template alone"
            )
        return self
