"""An encoder with linear heads: classification with one head a part, and regression."""

import re
from collections.abc import Mapping

from torch import Tensor, nn
from typing_extensions import override

from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.loading.input_config import AnyInput
from plumbline.models.encoder_config import EncoderConfig
from plumbline.models.encoders import Encoded, Encoder, encode, encoder_for
from plumbline.models.pretrained import Architecture, Origins
from plumbline.models.spec import EncoderPart, ModelSpec
from plumbline.tokenization.tokenizer import SpecialIds


class Classifier(nn.Module):
    """A shared encoder, and for each part of the dataset a head of its own."""

    def __init__(self, encoder: Encoder, heads: dict[str, int], dropout: float) -> None:
        """Join an encoder with new heads.

        Args:
            encoder: of whatever modality.
            heads: part -> number of outputs; parts may be called anything.
            dropout: before the heads.
        """
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.parts = list(heads)
        # Under names that modules may have; the real ones are `parts`, in the same order.
        self.heads = nn.ModuleDict(
            {head_name(part): nn.Linear(encoder.width, outputs) for part, outputs in heads.items()}
        )

    @property
    def architectures(self) -> Mapping[str, Architecture]:
        """What must be stored beside the weights of an encoder that came from a checkpoint."""
        return self.encoder.architectures("encoder")

    def forward(self, **inputs: object) -> dict[str, Tensor]:
        """Map a batch's inputs to logits [batch, outputs] by part.

        With pooling none and no flattening a head runs on every step, and the row's logits are
        the mean over its steps.
        """
        encoded = encode(self.encoder, inputs)
        pooled = self.dropout(encoded.pooled)
        return {
            part: self._reduce(head(pooled), encoded)
            for part, head in zip(self.parts, self.heads.values(), strict=True)
        }

    def _reduce(self, logits: Tensor, encoded: Encoded) -> Tensor:
        # [batch, outputs]: the encoder has pooled already.
        if logits.ndim == 2:
            return logits
        if encoded.mask is None:
            return logits.mean(dim=1)
        # [batch, steps, 1]: the steps of padding count in neither sum.
        counted = encoded.mask.unsqueeze(-1).to(logits.dtype)
        mean: Tensor = (logits * counted).sum(dim=1) / counted.sum(dim=1)
        return mean


def head_name(part: str) -> str:
    """Name of the module of a part's head: no attribute of modules, and no other part's.

    Characters that a name of parameters cannot have, and the underscore that marks them, stand as
    their code in hexadecimal.

    >>> head_name("pain"), head_name(""), head_name("left.hand_2")
    ('head_pain', 'head_', 'head_left_2e_hand_5f_2')
    """
    return "head_" + re.sub(r"[^0-9A-Za-z]", lambda found: f"_{ord(found[0]):x}_", part)


class HeadedSpec(ModelSpec):
    """How to build and feed an encoder with heads."""

    model: ClassifierConfig
    inputs: AnyInput
    channels: int | None
    """Of the steps that a sequence encoder takes."""
    vocab_size: int
    special_ids: SpecialIds | None

    def heads(self) -> dict[str, int]:
        """Part -> outputs of its head."""
        raise TypeError(f"{type(self).__name__} does not say which heads it has")

    @property
    def encoder(self) -> EncoderConfig:
        """How the encoder is built; where it came from no longer matters."""
        assert self.model.encoder is not None, "a stored model says which encoder it has"
        return self.model.encoder

    @override
    def build(self, origins: Origins) -> Classifier:
        origin = origins.get("encoder")
        encoder = encoder_for(self.encoder, self.channels, self.vocab_size, origin)
        return Classifier(encoder, self.heads(), self.model.head_dropout)

    @override
    def encoder_part(self) -> EncoderPart:
        return EncoderPart("encoder", self.encoder, self.inputs, self.channels, self.vocab_size)
