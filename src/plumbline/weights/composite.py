"""Whole vision-language models: which tensors of a checkpoint are those of a part. No torch here.

A part of a model starts from its own of them; the others are not read.
"""

import re
from collections.abc import Mapping

Names = Mapping[str, str]
"""Expression of how names of tensors begin -> what the part alone has in its place."""

_IDEFICS3: Mapping[str, Names] = {
    "vision": {r"^model\.vision_model\.": ""},
    "projector": {r"^model\.connector\.modality_projection\.": ""},
    "decoder": {r"^model\.text_model\.": "model."},  # its last map is `lm_head` in both
}

COMPOSITES: Mapping[str, Mapping[str, Names]] = {"idefics3": _IDEFICS3, "smolvlm": _IDEFICS3}
"""`model_type` of a checkpoint -> part -> the names of its tensors."""


def own_name(name: str, names: Names) -> str | None:
    """What a part calls a tensor of a checkpoint; None: it is another part's."""
    for begins, instead in names.items():
        if re.match(begins, name):
            return re.sub(begins, instead, name, count=1)
    return None
