"""What is stored beside weights, so that they can be used without what trained them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plumbline.config import Config
from plumbline.loading.input_config import InputConfig
from plumbline.models.encoder_config import EncoderConfig

if TYPE_CHECKING:
    from torch import nn

    from plumbline.models.pretrained import Origins


@dataclass(frozen=True)
class EncoderPart:
    """The encoder of a model that another training can start with."""

    name: str
    """Of the module, such as image_encoder."""
    config: EncoderConfig
    inputs: InputConfig
    """How media or texts reach it."""
    channels: int | None
    """Of the steps that it takes; None: it takes no steps."""
    vocab_size: int | None
    """Number of the token ids that it takes."""


class ModelSpec(Config):
    """How to build and feed a model: the content of model.json. `kind` says which subclass."""

    kind: str

    def build(self, origins: "Origins") -> "nn.Module":
        """Make the model, its weights still random.

        Args:
            origins: architectures of the parts which came from checkpoints, if some did.
        """
        raise TypeError(f"{type(self).__name__} does not say how its model is built")

    def encoder_part(self) -> EncoderPart | None:
        """The encoder that another training can start with; None: there is none."""
        return None
