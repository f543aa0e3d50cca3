"""The kinds of task by name: a line each, and what it stands for. A plugin adds a line."""

from dataclasses import dataclass

from plumbline.config import Config
from plumbline.kinds.causal_lm.settings import CausalLmConfig, CausalLmTaskConfig
from plumbline.kinds.classification.settings import ClassificationTaskConfig
from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.kinds.masked_lm.settings import MaskedLmConfig, MaskedLmTaskConfig
from plumbline.kinds.regression.settings import RegressionTaskConfig
from plumbline.kinds.seq2seq.settings import Seq2SeqConfig, Seq2SeqTaskConfig
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.registry import Registry
from plumbline.training.task_config import TaskConfig


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
    "vlm", TaskKind(VlmConfig, VlmTaskConfig, "plumbline.kinds.vlm.train:build", starts_from_any=False)
)
KINDS.register(
    "causal_lm",
    TaskKind(
        CausalLmConfig, CausalLmTaskConfig, "plumbline.kinds.causal_lm.train:build", starts_from_any=False
    ),
)
KINDS.register(
    "masked_lm",
    TaskKind(
        MaskedLmConfig, MaskedLmTaskConfig, "plumbline.kinds.masked_lm.train:build", starts_from_any=False
    ),
)
KINDS.register(
    "seq2seq",
    TaskKind(
        Seq2SeqConfig, Seq2SeqTaskConfig, "plumbline.kinds.seq2seq.train:build", starts_from_any=False
    ),
)
KINDS.register(
    "classification",
    TaskKind(ClassifierConfig, ClassificationTaskConfig, "plumbline.kinds.classification.train:build"),
)
KINDS.register(
    "regression",
    TaskKind(ClassifierConfig, RegressionTaskConfig, "plumbline.kinds.regression.train:build"),
)
