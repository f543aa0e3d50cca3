"""Settings of the export; no torch here."""

from typing import Literal

from pydantic import Field, field_validator

from plumbline.config import Config
from plumbline.data.audio_headers import MAX_SECONDS
from plumbline.data.image_parts import MAX_PIXELS
from plumbline.data.undecodable import MAX_BYTES


class ServerConfig(Config):
    """Content of `server.json`: the HTTP server of the bundle."""

    host: str = "127.0.0.1"
    """The address that it listens on; 0.0.0.0 for every one of the machine."""
    port: int = Field(8080, ge=0, le=65535)
    """0: any that is free."""
    max_body_bytes: int = Field(8 << 20, ge=1024, le=1 << 30)
    """Longest request; a file in it is base64, a third larger than itself."""
    max_connections: int = Field(64, ge=1, le=10_000)
    """Open at the same time; for one more the one that sends longest is ended."""
    max_concurrent: int = Field(4, ge=1, le=1024)
    """Answers computed at the same time, each in a process that holds the model; others wait."""
    read_timeout_s: float = Field(10.0, ge=0.1, le=600.0)
    """A request that has not arrived within this time is dropped."""
    queue_timeout_s: float = Field(30.0, ge=0.1, le=600.0)
    """Longest wait for a turn before the answer is 503."""
    answer_timeout_s: float = Field(10.0, ge=0.1, le=3600.0)
    """An answer that is not there within this time is ended, with its process: 504."""
    answer_memory_bytes: int = Field(2 << 30, ge=1 << 26, le=1 << 40)
    """What a process may allocate beside the loaded model; an answer that needs more is 413."""


class LimitsConfig(Config):
    """The largest inputs that a bundle accepts, and the longest text that it writes."""

    max_bytes: int = Field(20 << 20, ge=1024, le=MAX_BYTES)
    """Of an image, a clip or an array, encoded."""
    max_image_pixels: int = Field(MAX_PIXELS, ge=64, le=MAX_PIXELS)
    """Width times height of an image."""
    max_audio_s: float = Field(60.0, gt=0.0, le=MAX_SECONDS)
    """Length of a clip, in seconds."""
    max_text_chars: int = Field(10_000, ge=1, le=400_000)
    """Length of each text."""
    max_new_tokens: int = Field(1000, ge=1)
    """What a request may ask for at most."""


class ExportConfig(Config):
    """Section `export` of a task: what all kinds have."""

    enabled: bool = True
    """Whether a bundle is written; without one the output holds its settings alone."""
    formats: list[str] = ["onnx", "torchscript"]
    """What is written beside the weights: onnx, torchscript or a format of a plugin; empty: the
    weights alone. The first is the default."""
    split: Literal["train", "val", "test"] = "test"
    """Where the samples for parity and self-test come from."""
    parity_samples: int = Field(100, ge=1)
    """Samples on which checkpoint and exported model are compared."""
    selftest_samples: int = Field(4, ge=1)
    """Samples stored in the bundle with the answers that are expected."""
    max_logits_difference: float = Field(1e-3, gt=0.0)
    """Largest absolute difference of a logit; float32 kernels differ by some 1e-5."""
    min_agreement: float = Field(1.0, ge=0.0, le=1.0)
    """Share of decisions that must be equal: classes, or tokens that are generated greedily."""
    max_metric_difference: float = Field(0.001, ge=0.0, le=1.0)
    """Largest difference of the kind's own figure, such as accuracy, loss or exact match."""
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    """The largest inputs that the bundle accepts."""
    server: ServerConfig = Field(default_factory=ServerConfig)
    """The HTTP server of the bundle."""

    @field_validator("formats")
    @classmethod
    def _distinct(cls, formats: list[str]) -> list[str]:
        if len(set(formats)) != len(formats):
            raise ValueError("a format is named twice")
        return formats

    def splits(self) -> dict[str, str]:
        """The settings that name a split, and the split."""
        return {"split": self.split}

    def check_longest(self, setting: str, tokens: int) -> None:
        """Refuse answers that would break the bundle's own limit, with nothing asked for.

        Raises:
            ValueError: names both settings.
        """
        if tokens > self.limits.max_new_tokens:
            raise ValueError(
                f"{setting} {tokens} is above limits.max_new_tokens {self.limits.max_new_tokens}"
            )
