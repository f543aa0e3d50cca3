"""Settings of the export; no torch here."""

from typing import Literal

from pydantic import Field, field_validator

from plumbline.config import Config

Format = Literal["onnx", "torchscript"]


class ServerConfig(Config):
    """Content of `server.json`: the HTTP server of the bundle."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    max_body_bytes: int = Field(8 << 20, ge=1024, le=1 << 30)
    """Longest request; the image in it is base64, a third larger than its file."""
    max_connections: int = Field(64, ge=1, le=10_000)
    max_concurrent: int = Field(2, ge=1, le=1024)
    """Answers computed at the same time; the others wait."""
    read_timeout_s: float = Field(10.0, ge=0.1, le=600.0)
    """A request that has not arrived within this time is dropped."""
    queue_timeout_s: float = Field(30.0, ge=0.1, le=600.0)
    """Longest wait for a turn before the answer is 503."""


class ExportConfig(Config):
    """Section `export` of a vision-language task."""

    formats: list[Format] = ["onnx", "torchscript"]
    """What is written beside the weights; empty: the weights alone. The first is the default."""
    split: Literal["train", "val", "test"] = "test"
    """Where the samples for parity and self-test come from."""
    parity_samples: int = Field(100, ge=1)
    """Prompts on which checkpoint and exported model are compared."""
    selftest_samples: int = Field(4, ge=1)
    """Prompts stored in the bundle with the answers that are expected."""
    max_new_tokens: int = Field(64, ge=1)
    max_logits_difference: float = Field(1e-3, gt=0.0)
    """Largest absolute difference of a logit; float32 kernels differ by some 1e-5."""
    min_token_agreement: float = Field(1.0, ge=0.0, le=1.0)
    """Share of greedily generated tokens that must be equal."""
    max_metric_difference: float = Field(0.001, ge=0.0, le=1.0)
    """Largest difference of the exact match."""
    max_image_bytes: int = Field(20 << 20, ge=1024)
    max_image_pixels: int = Field(25_000_000, ge=64, le=89_000_000)
    """What the bundle accepts as input."""
    server: ServerConfig = Field(default_factory=ServerConfig)

    @field_validator("formats")
    @classmethod
    def _distinct(cls, formats: list[Format]) -> list[Format]:
        if len(set(formats)) != len(formats):
            raise ValueError("a format is named twice")
        return formats
