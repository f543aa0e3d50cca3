"""How each kind of task is evaluated: a line each. A plugin adds a line."""

from dataclasses import dataclass

from plumbline.evaluation.config import TaskEvaluationConfig
from plumbline.kinds.classification.settings import ClassificationEvaluationConfig
from plumbline.kinds.language.settings import LanguageEvaluationConfig
from plumbline.kinds.regression.settings import RegressionEvaluationConfig
from plumbline.kinds.seq2seq.settings import Seq2SeqEvaluationConfig
from plumbline.kinds.vlm.settings import VlmEvaluationConfig
from plumbline.registry import Registry


@dataclass(frozen=True)
class EvaluationKind:
    """The settings of an evaluation, and what does it."""

    settings: type[TaskEvaluationConfig]
    """Section `evaluate` of a task."""
    evaluate: str
    """`module:function` from an EvaluationJob to an Evaluation."""


EVALUATIONS: Registry[EvaluationKind] = Registry("kind of task")

for _kind, _settings, _evaluate in (
    ("vlm", VlmEvaluationConfig, "plumbline.kinds.vlm.evaluate:evaluate"),
    ("causal_lm", LanguageEvaluationConfig, "plumbline.kinds.causal_lm.evaluate:evaluate"),
    ("masked_lm", LanguageEvaluationConfig, "plumbline.kinds.masked_lm.evaluate:evaluate"),
    ("seq2seq", Seq2SeqEvaluationConfig, "plumbline.kinds.seq2seq.evaluate:evaluate"),
    (
        "classification",
        ClassificationEvaluationConfig,
        "plumbline.kinds.classification.evaluate:evaluate",
    ),
    ("regression", RegressionEvaluationConfig, "plumbline.kinds.regression.evaluate:evaluate"),
):
    EVALUATIONS.register(_kind, EvaluationKind(_settings, _evaluate))
