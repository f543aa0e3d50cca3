"""Settings of a regression task. No torch here."""

from typing import Annotated

from plumbline.evaluation.config import EvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.kinds.headed.settings import STARTS_FROM, ClassifierConfig, HeadedTaskConfig
from plumbline.registry import Registry, name_in

VALUE_LOSSES: Registry[str] = Registry("regression loss")
"""Name -> "module:function" of a `plumbline.losses.regression.ValueLoss`."""

for _name in ("squared_error", "absolute_error", "huber"):
    VALUE_LOSSES.register(_name, f"plumbline.losses.regression:{_name}")


class RegressionTaskConfig(HeadedTaskConfig):
    """What the regressor optimises: a loss of the standardised numbers."""

    loss: Annotated[str, name_in(VALUE_LOSSES)] = "squared_error"
    """Of the distance between prediction and standardised number."""
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
