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
    ("alignment", "plumbline.kinds.alignment.model:DualEncoderSpec"),
    ("vlm", "plumbline.kinds.vlm.model:VlmSpec"),
    ("causal_lm", "plumbline.kinds.causal_lm.model:CausalLmSpec"),
    ("masked_lm", "plumbline.kinds.masked_lm.model:MaskedLmSpec"),
    ("seq2seq", "plumbline.kinds.seq2seq.model:Seq2SeqSpec"),
    ("classification", "plumbline.kinds.classification.model:ClassifierSpec"),
    ("regression", "plumbline.kinds.regression.model:RegressorSpec"),
):
    SPECS.register(_kind, _place)
