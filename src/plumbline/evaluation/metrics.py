"""Metrics that an evaluation adds to those of its kind, chosen by name.

No torch here, and nothing of a kind's settings: a training does not depend on how it is measured.
"""

from plumbline.registry import Registry

EVALUATION_METRICS: Registry[str] = Registry("metric of an evaluation")
"""Name -> "module:function" of a `plumbline.evaluation.measure.ComputeMetric`."""
