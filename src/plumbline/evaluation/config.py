"""Settings of the evaluations; no torch here."""

from typing import Literal

from pydantic import Field

from plumbline.config import Config
from plumbline.metrics.scripts import BleuTokenizer

Split = Literal["train", "val", "test"]


class EvaluationConfig(Config):
    """What every section `evaluate` has."""

    split: Split = "test"
    """The split that is measured."""
    batch_size: int = Field(256, ge=1)
    """Samples computed together; no figure depends on it."""
    metrics: list[str] = []
    """Figures that plugins register in `EVALUATION_METRICS`, beside those of the kind."""


class WrittenEvaluationConfig(EvaluationConfig):
    """What evaluations of written texts share."""

    bleu_tokenizer: BleuTokenizer = "auto"
    """What cuts texts into tokens for BLEU; auto: zh for Chinese, char for other scripts without
    spaces between words, else 13a. It stands in the signature beside the figure."""
