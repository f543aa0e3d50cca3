"""How well an exported model agrees with its checkpoint; a disagreement is an error."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from plumbline.errors import ExportError
from plumbline.export.config import ExportConfig


class Cost(TypedDict):
    """What a format of lower precision costs: its figure beside that of the checkpoint."""

    metric: str
    value: float
    checkpoint: float
    decision: str
    agreement: float
    """Share of the checkpoint's decisions that it made too."""
    max_logits_difference: float
    samples: int
    decisions: int
    split: str


@dataclass(frozen=True)
class Parity:
    """Agreement of one format with the checkpoint."""

    samples: int
    decision: str
    """What is decided: class, token or value."""
    decisions: int
    agreement: float
    """Share of the checkpoint's decisions that the exported model made too, at the same place."""
    metric: str
    """Name of the kind's own figure, such as accuracy."""
    metric_known: float
    """What the checkpoint has of it."""
    metric_found: float
    """What the exported model has of it."""
    max_input_difference: float
    """Of what the model is given: pixels, spectrograms, ids."""
    max_logits_difference: float
    input_tolerance: float = 1e-6
    """None is expected of images, features and text; a processor without fused multiply-add rounds
    images twice. Logarithms of spectrograms differ between libraries."""

    @property
    def metric_difference(self) -> float:
        """Of the kind's own figure."""
        return abs(self.metric_found - self.metric_known)

    def facts(self) -> dict[str, float]:
        """The figures by name, rounded to three digits."""
        figures = {
            f"{self.decision}_agreement": self.agreement,
            f"{self.metric}_difference": self.metric_difference,
            "max_input_difference": self.max_input_difference,
            "max_logits_difference": self.max_logits_difference,
        }
        rounded = {name: float(f"{value:.3g}") for name, value in figures.items()}
        count = "classes" if self.decision == "class" else f"{self.decision}s"
        return {**rounded, "samples": self.samples, count: self.decisions}

    def cost(self, split: str) -> Cost:
        """What a format of lower precision costs; `split` is that of the samples."""
        return {
            "metric": self.metric,
            "value": float(f"{self.metric_found:.4g}"),
            "checkpoint": float(f"{self.metric_known:.4g}"),
            "decision": self.decision,
            "agreement": float(f"{self.agreement:.4g}"),
            "max_logits_difference": float(f"{self.max_logits_difference:.4g}"),
            "samples": self.samples,
            "decisions": self.decisions,
            "split": split,
        }


def check_parity(name: str, parity: Parity, config: ExportConfig) -> None:
    """Compare the figures of a format with what the settings allow.

    Raises:
        ExportError: a figure is beyond its limit, or not a number.
    """
    limits = {
        "max_logits_difference": (parity.max_logits_difference, config.max_logits_difference),
        f"{parity.metric}_difference": (parity.metric_difference, config.max_metric_difference),
    }
    check_inputs(name, parity)
    _check_limits(name, limits)
    if not parity.agreement >= config.min_agreement:  # NaN fails here too
        raise ExportError(
            f"{name}: {parity.decision}_agreement is {parity.agreement:.4f}, "
            f"at least {config.min_agreement:g} is required"
        )


def check_inputs(name: str, parity: Parity) -> None:
    """Hold a format to what holds of every one, whatever its precision.

    Raises:
        ExportError: its model is given something else than the checkpoint, or computes no numbers.
    """
    _check_limits(
        name,
        {
            "max_input_difference": (parity.max_input_difference, parity.input_tolerance),
            "max_logits_difference": (parity.max_logits_difference, sys.float_info.max),
            f"{parity.metric}_difference": (parity.metric_difference, sys.float_info.max),
        },
    )


def _check_limits(name: str, limits: Mapping[str, tuple[float, float]]) -> None:
    for field, (value, limit) in limits.items():
        # Not `value > limit`: a NaN is beyond any limit.
        if not value <= limit:
            raise ExportError(f"{name}: {field} is {value:.3g}, allowed is {limit:g}")


def larger(one: float, other: float) -> float:
    """The larger of two differences; NaN where one of them is, which is beyond any limit."""
    # The built-in max drops a NaN that comes second.
    return float(np.maximum(one, other))


def until(ids: list[int], eos: int) -> list[int]:
    """Cut ids behind the first eos."""
    return ids[: ids.index(eos) + 1] if eos in ids else ids


def common_prefix(one: list[int], other: list[int]) -> int:
    """Length of the beginning that two lists share."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
