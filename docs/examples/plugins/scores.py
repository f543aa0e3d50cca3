"""A metric: Matthews' correlation, of a classifier's labels with its predictions."""

from plumbline.evaluation.metrics import EVALUATION_METRICS
from plumbline.metrics.known import METRICS, Metric

EVALUATION_METRICS.register("matthews", "plugins._scores:matthews")
METRICS.register("matthews", Metric("max", "all labels or all predictions are of one class"))
