"""What is stored beside a regressor."""

from typing import Literal

from typing_extensions import override

from plumbline.kinds.headed.model import HeadedSpec


class RegressorSpec(HeadedSpec):
    """How to build and feed a regressor; its outputs are in units of the training deviation."""

    kind: Literal["regression"] = "regression"
    parts: list[str]
    mean: dict[str, float]
    std: dict[str, float]
    """Part -> mean and standard deviation of its numbers in training."""

    @override
    def heads(self) -> dict[str, int]:
        return dict.fromkeys(self.parts, 1)


SPEC = RegressorSpec
