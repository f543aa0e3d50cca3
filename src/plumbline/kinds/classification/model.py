"""What is stored beside a classifier."""

from pathlib import Path
from typing import Literal

from plumbline.kinds.headed.model import Classifier, encoder_for
from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.loading.input_config import AnyInput
from plumbline.models.spec import ModelSpec
from plumbline.tokenization.tokenizer import SpecialIds


class ClassifierSpec(ModelSpec):
    """How to build and feed a classifier."""

    kind: Literal["classification"] = "classification"
    model: ClassifierConfig
    inputs: AnyInput
    channels: int | None
    """Of the steps that a sequence encoder takes."""
    classes: dict[str, list[str]]
    """Part -> class names, in the order of the logits."""
    vocab_size: int
    special_ids: SpecialIds | None

    def build(self, architecture: Path | None) -> Classifier:
        """See `ModelSpec`."""
        assert self.model.encoder is not None, "a stored classifier says which encoder it has"
        encoder = encoder_for(
            self.model.encoder, self.channels, self.vocab_size, stored=architecture
        )
        heads = {part: len(names) for part, names in self.classes.items()}
        return Classifier(encoder, heads, self.model.head_dropout)
