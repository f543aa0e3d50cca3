"""What is stored beside weights, so that they can be used without what trained them.

No torch here: plugins register their kinds in `SPECS`, and every stage loads plugins.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.config import Config
from plumbline.registry import Registry

if TYPE_CHECKING:
    from torch import nn


class ModelSpec(Config):
    """How to build and feed a model: the content of model.json. `kind` says which subclass."""

    kind: str

    def build(self, architecture: Path | None) -> "nn.Module":
        """Make the model, its weights still random.

        Args:
            architecture: folder that describes a part which came from a checkpoint, if one did.
        """
        raise TypeError(f"{type(self).__name__} does not say how its model is built")


SPECS: Registry[str] = Registry("kind of model")
"""Kind -> `module:class` of its spec."""

for _kind, _place in (
    ("alignment", "plumbline.models.dual_encoder:DualEncoderSpec"),
    ("vlm", "plumbline.models.vlm:VlmSpec"),
    ("causal_lm", "plumbline.models.language:CausalLmSpec"),
    ("masked_lm", "plumbline.models.language:MaskedLmSpec"),
    ("seq2seq", "plumbline.models.seq2seq:Seq2SeqSpec"),
    ("classification", "plumbline.models.classifier:ClassifierSpec"),
    ("regression", "plumbline.models.classifier:RegressorSpec"),
):
    SPECS.register(_kind, _place)
