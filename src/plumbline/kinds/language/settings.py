"""Settings that kinds which read or write tokens share. No torch here."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from plumbline.config import Config
from plumbline.evaluation.config import EvaluationConfig
from plumbline.registry import Registry, name_in
from plumbline.training.task_config import TaskConfig

TOKEN_LOSSES: Registry[str] = Registry("loss of tokens")
"""Name -> "module:function" of a `plumbline.losses.language.TokenLoss`."""

TOKEN_LOSSES.register("cross_entropy", "plumbline.losses.language:token_cross_entropy")


class SamplingConfig(Config):
    """How a language model goes on from a prompt."""

    max_new_tokens: int = Field(200, ge=1)
    """Longest continuation."""
    temperature: float = Field(1.0, ge=0.0)
    """What logits are divided by before a token is drawn; 0: always the likeliest token."""
    top_k: int | None = Field(None, ge=1)
    """Draw from this many likeliest tokens only."""
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    """Draw from the likeliest tokens that have this much of the probability together."""
    stop: list[str] = Field(default_factory=list)
    """Texts that end the continuation; they are not part of it."""
    seed: int = 0
    """Of what is drawn; the same one gives the same text."""


class LanguageEvaluationConfig(EvaluationConfig):
    """Section `evaluate` of a causal or masked language model."""

    prompts: list[str] = Field(default_factory=list)
    """Beginnings that a causal model continues, for the report."""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    """How `prompts` are continued."""


class TokenTaskConfig(TaskConfig):
    """What work with tokens shares."""

    loss: Annotated[str, name_in(TOKEN_LOSSES)] = "cross_entropy"
    """Of training; validation measures cross-entropy, so that perplexity is what it says."""


PackedOrPadded = Literal["packed", "padded"]
"""Whole samples one behind the other, or each in a row of its own. What is learned is the same:
positions begin anew in each, and none sees another."""


class TextTaskConfig(TokenTaskConfig):
    """What work on texts shares: how rows become samples."""

    block_size: int = Field(128, ge=2)
    """Tokens seen at a time, or in front of which the next one is predicted; longer rows are
    cut."""
    rows: Literal["auto", "stream", "packed", "padded"] = "auto"
    """`stream`: all rows as one text, eos between them, in blocks that rows may share; text only.
    Else a row is a sample, `packed` one behind the other or `padded` each by itself. `auto`:
    `stream` where block_size would cut more than half of the text from rows, else `packed`."""

    @property
    @override
    def has_lengths(self) -> bool:
        return self.rows != "stream"
