"""Settings of a classification task. No torch here."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from plumbline.config import Config
from plumbline.evaluation.config import EvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.kinds.headed.settings import STARTS_FROM, ClassifierConfig, HeadedTaskConfig
from plumbline.registry import Registry, name_in

CLASS_LOSSES: Registry[str] = Registry("classification loss")
"""Name -> "module:function" of a `plumbline.losses.classification.ClassLoss`."""

CLASS_LOSSES.register("cross_entropy", "plumbline.losses.classification:class_cross_entropy")
CLASS_LOSSES.register("focal", "plumbline.losses.classification:focal_loss")


class ClassificationTaskConfig(HeadedTaskConfig):
    """What the classifier optimises; a dataset of several parts gets a head for each."""

    loss: Annotated[str, name_in(CLASS_LOSSES)] = "cross_entropy"
    """`focal` weighs samples that are easy already less."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the label's probability that is spread over all classes."""
    class_weights: (
        Literal["none", "balanced"] | dict[str, list[Annotated[float, Field(ge=0.0)]]]
    ) = "none"
    """balanced: n / (classes * n of the class) over the training labels; or part -> weights."""

    @override
    def class_counts(self, model: Config) -> dict[str, tuple[str, int]]:
        assert isinstance(model, ClassifierConfig)
        weights = self.class_weights if isinstance(self.class_weights, dict) else {}
        said = {f"task.class_weights.{part}": (part, len(of)) for part, of in weights.items()}
        counts = {f"model.num_classes.{part}": (part, n) for part, n in model.num_classes.items()}
        return said | counts


class ClassificationEvaluationConfig(EvaluationConfig):
    """Section `evaluate` of a classification task."""


SETTINGS = KindSettings(
    model=ClassifierConfig,
    task=ClassificationTaskConfig,
    evaluate=ClassificationEvaluationConfig,
    export=ExportConfig,
    starts_from=STARTS_FROM,
)
