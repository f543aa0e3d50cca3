"""How each kind of task is evaluated: a line each. A plugin adds a line."""

from dataclasses import dataclass

from plumbline.evaluation.config import (
    ClassificationEvaluationConfig,
    LanguageEvaluationConfig,
    RegressionEvaluationConfig,
    Seq2SeqEvaluationConfig,
    TaskEvaluationConfig,
    VlmEvaluationConfig,
)
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
    ("vlm", VlmEvaluationConfig, "plumbline.evaluation.vlm:evaluate"),
    ("causal_lm", LanguageEvaluationConfig, "plumbline.evaluation.causal_lm:evaluate"),
    ("masked_lm", LanguageEvaluationConfig, "plumbline.evaluation.masked_lm:evaluate"),
    ("seq2seq", Seq2SeqEvaluationConfig, "plumbline.evaluation.seq2seq:evaluate"),
    (
        "classification",
        ClassificationEvaluationConfig,
        "plumbline.evaluation.classification:evaluate",
    ),
    ("regression", RegressionEvaluationConfig, "plumbline.evaluation.regression:evaluate"),
):
    EVALUATIONS.register(_kind, EvaluationKind(_settings, _evaluate))
