"""Settings of a regression task. No torch here."""

from plumbline.evaluation.config import TaskEvaluationConfig
from plumbline.kinds.headed.settings import HeadedTaskConfig


class RegressionEvaluationConfig(TaskEvaluationConfig):
    """Section `evaluate` of a regression task."""


class RegressionTaskConfig(HeadedTaskConfig):
    """What the regressor optimises: the squared error of the standardised numbers."""

    row_weights: bool = False
    """Whether errors are multiplied by the column `weight`, scaled to mean 1 over the training
    samples; a row without a weight has 1. Figures are of all rows alike."""
