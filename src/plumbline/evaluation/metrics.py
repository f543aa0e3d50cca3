"""Metrics that an evaluation adds to those of its kind, chosen by name.

No torch here, and nothing of a kind's settings: a training does not depend on how it is measured.
"""

from plumbline.evaluation.config import EvaluationConfig
from plumbline.registry import Registry

EVALUATION_METRICS: Registry[str] = Registry("metric of an evaluation")
"""Name -> "module:function" of a `plumbline.evaluation.measure.ComputeMetric`."""


def check_metrics(config: EvaluationConfig) -> None:
    """Refuse names that are not registered.

    Raises:
        ConfigError: one is unknown; the text gives the nearest one.
    """
    for name in config.metrics:
        _ = EVALUATION_METRICS[name]
