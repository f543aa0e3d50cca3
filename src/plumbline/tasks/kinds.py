"""The kinds of task by name: a line each, and what it stands for. A plugin adds a line."""

from dataclasses import dataclass

from plumbline.config import Config
from plumbline.models.config import (
    CausalLmConfig,
    ClassifierConfig,
    MaskedLmConfig,
    Seq2SeqConfig,
    VlmConfig,
)
from plumbline.registry import Registry
from plumbline.tasks.config import (
    CausalLmTaskConfig,
    ClassificationTaskConfig,
    MaskedLmTaskConfig,
    RegressionTaskConfig,
    Seq2SeqTaskConfig,
    TaskConfig,
    VlmTaskConfig,
)


@dataclass(frozen=True)
class TaskKind:
    """The settings of a kind of task, and what builds a training from them."""

    model: type[Config]
    """Section `train.model`."""
    task: type[TaskConfig]
    """Section `train.task`."""
    build: str
    """`module:function` from (JobContext, model settings, task settings) to a TrainingJob."""
    starts_from_any: bool = True
    """Whether it can start from a model of any kind, whose code it runs then."""


KINDS: Registry[TaskKind] = Registry("kind of task")
KINDS.register(
    "vlm", TaskKind(VlmConfig, VlmTaskConfig, "plumbline.tasks.vlm:build", starts_from_any=False)
)
KINDS.register(
    "causal_lm",
    TaskKind(
        CausalLmConfig, CausalLmTaskConfig, "plumbline.tasks.causal_lm:build", starts_from_any=False
    ),
)
KINDS.register(
    "masked_lm",
    TaskKind(
        MaskedLmConfig, MaskedLmTaskConfig, "plumbline.tasks.masked_lm:build", starts_from_any=False
    ),
)
KINDS.register(
    "seq2seq",
    TaskKind(
        Seq2SeqConfig, Seq2SeqTaskConfig, "plumbline.tasks.seq2seq:build", starts_from_any=False
    ),
)
KINDS.register(
    "classification",
    TaskKind(ClassifierConfig, ClassificationTaskConfig, "plumbline.tasks.classification:build"),
)
KINDS.register(
    "regression",
    TaskKind(ClassifierConfig, RegressionTaskConfig, "plumbline.tasks.regression:build"),
)
