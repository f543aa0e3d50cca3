"""Settings of the evaluations; no torch here."""

from typing import Annotated, Literal

from pydantic import Field

from plumbline.config import Config


class AlignmentEvaluationConfig(Config):
    """Section `evaluate` of an alignment."""

    split: Literal["train", "val", "test"] = "test"
    ks: list[Annotated[int, Field(ge=1)]] = Field([1, 5, 10], min_length=1)
    batch_size: int = Field(256, ge=1)
    examples: int = Field(8, ge=0)
    """Images shown in the report with the captions found for them."""


class VlmEvaluationConfig(Config):
    """Section `evaluate` of a vision-language task."""

    split: Literal["train", "val", "test"] = "test"
    batch_size: int = Field(256, ge=1)
    """Prompts decoded together."""
    max_new_tokens: int = Field(64, ge=1)
