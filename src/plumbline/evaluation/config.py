"""Settings of the evaluations; no torch here."""

from typing import Annotated, Literal

from pydantic import Field

from plumbline.config import Config
from plumbline.metrics.scripts import BleuTokenizer

Split = Literal["train", "val", "test"]


class AlignmentEvaluationConfig(Config):
    """Section `evaluate` of an alignment."""

    split: Split = "test"
    ks: list[Annotated[int, Field(ge=1)]] = Field([1, 5, 10], min_length=1)
    batch_size: int = Field(256, ge=1)
    examples: int = Field(8, ge=0)
    """Media shown in the report with the captions found for them."""
    zero_shot: list[str] = Field(default_factory=list)
    """Prompt templates, such as "a photo of a {label}": their captions classify the media."""


class TaskEvaluationConfig(Config):
    """What the section `evaluate` of every task has."""

    split: Split = "test"
    batch_size: int = Field(256, ge=1)
    """Samples computed together; no figure depends on it."""


class WrittenEvaluationConfig(TaskEvaluationConfig):
    """What evaluations of written texts share."""

    bleu_tokenizer: BleuTokenizer = "auto"
    """What cuts texts into tokens for BLEU; auto: zh for Chinese, char for other scripts without
    spaces between words, else 13a. It stands in the signature beside the figure."""


class VlmEvaluationConfig(WrittenEvaluationConfig):
    """Section `evaluate` of a vision-language task."""

    max_new_tokens: int = Field(64, ge=1)


class SamplingConfig(Config):
    """How a language model goes on from a prompt."""

    max_new_tokens: int = Field(200, ge=1)
    temperature: float = Field(1.0, ge=0.0)
    """0: always the likeliest token."""
    top_k: int | None = Field(None, ge=1)
    """Draw from this many likeliest tokens only."""
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    """Draw from the likeliest tokens that have this much of the probability together."""
    stop: list[str] = Field(default_factory=list)
    """Texts that end the continuation; they are not part of it."""
    seed: int = 0


class LanguageEvaluationConfig(TaskEvaluationConfig):
    """Section `evaluate` of a causal or masked language model."""

    prompts: list[str] = Field(default_factory=list)
    """Beginnings that a causal model continues, for the report."""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)


class Seq2SeqEvaluationConfig(WrittenEvaluationConfig):
    """Section `evaluate` of an encoder-decoder."""

    beams: int = Field(4, ge=1)
    """Hypotheses kept per source; 1: greedy."""
    length_penalty: float = 1.0
    """Scores are divided by length to this power: higher values favour longer texts."""
    max_new_tokens: int = Field(100, ge=1)


class ClassificationEvaluationConfig(TaskEvaluationConfig):
    """Section `evaluate` of a classification task."""


class RegressionEvaluationConfig(TaskEvaluationConfig):
    """Section `evaluate` of a regression task."""
