"""What is stored beside a regressor."""

from pathlib import Path
from typing import Literal

from plumbline.kinds.headed.model import Classifier, encoder_for
from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.loading.input_config import AnyInput
from plumbline.models.spec import ModelSpec
from plumbline.tokenization.tokenizer import SpecialIds


class RegressorSpec(ModelSpec):
    """How to build and feed a regressor; its outputs are in units of the training deviation."""

    kind: Literal["regression"] = "regression"
    model: ClassifierConfig
    inputs: AnyInput
    channels: int | None
    parts: list[str]
    mean: dict[str, float]
    std: dict[str, float]
    """Part -> mean and standard deviation of its numbers in training."""
    vocab_size: int
    special_ids: SpecialIds | None

    def build(self, architecture: Path | None) -> Classifier:
        """See `ModelSpec`."""
        assert self.model.encoder is not None, "a stored regressor says which encoder it has"
        encoder = encoder_for(
            self.model.encoder, self.channels, self.vocab_size, stored=architecture
        )
        return Classifier(encoder, dict.fromkeys(self.parts, 1), self.model.head_dropout)
