"""Settings of a forecast. No torch here."""

from plumbline.config import Config
from plumbline.evaluation.config import EvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.loading.input_config import FeaturesInputConfig
from plumbline.models.encoder_config import AnyEncoder
from plumbline.training.task_config import TaskConfig


class ForecastConfig(Config):
    """Section `train.model`."""

    encoder: AnyEncoder


class ForecastTaskConfig(TaskConfig):
    """Section `train.task`."""

    inputs: FeaturesInputConfig


SETTINGS = KindSettings(
    model=ForecastConfig,
    task=ForecastTaskConfig,
    evaluate=EvaluationConfig,
    export=ExportConfig,
    title="Forecast of a sequence",
)
