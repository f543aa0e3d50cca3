"""Settings of a regression task. No torch here."""

from plumbline.evaluation.config import EvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.kinds.headed.settings import STARTS_FROM, ClassifierConfig, HeadedTaskConfig


class RegressionTaskConfig(HeadedTaskConfig):
    """What the regressor optimises: the squared error of the standardised numbers."""

    row_weights: bool = False
    """Whether errors are multiplied by the column `weight`, scaled to mean 1 over the training
    samples; a row without a weight has 1. Figures are of all rows alike."""


class RegressionEvaluationConfig(EvaluationConfig):
    """Section `evaluate` of a regression task."""


SETTINGS = KindSettings(
    model=ClassifierConfig,
    task=RegressionTaskConfig,
    evaluate=RegressionEvaluationConfig,
    export=ExportConfig,
    starts_from=STARTS_FROM,
)
