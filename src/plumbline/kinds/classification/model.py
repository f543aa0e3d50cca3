"""What is stored beside a classifier."""

from typing import Literal

from typing_extensions import override

from plumbline.kinds.headed.model import HeadedSpec


class ClassifierSpec(HeadedSpec):
    """How to build and feed a classifier."""

    kind: Literal["classification"] = "classification"
    classes: dict[str, list[str]]
    """Part -> class names, in the order of the logits."""

    @override
    def heads(self) -> dict[str, int]:
        return {part: len(names) for part, names in self.classes.items()}


SPEC = ClassifierSpec
