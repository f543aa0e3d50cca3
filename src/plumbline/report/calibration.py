"""How far confidences are to be believed: a reliability diagram of predictions."""

import numpy as np

from plumbline.report.blocks import Block
from plumbline.report.figures import number, share
from plumbline.report.plots import reliability_plot

BINS = 15
"""As many as the figure `expected_calibration_error` has."""
FAIR = 0.01
"""A smaller difference of confidence and accuracy is not called one."""


class Calibration:
    """Confidences and whether they were right, as sums over bins of equal width."""

    def __init__(self) -> None:
        """Begin with no prediction."""
        self._edges = np.linspace(0, 1, BINS + 1)[1:-1]
        # [bins] each: predictions, sum of their confidences, right ones
        self._counts, self._sure, self._right = np.zeros((3, BINS))

    def add(self, confidence: float, *, right: bool) -> None:
        """Take one prediction with a confidence from 0 to 1."""
        at = int(np.digitize(confidence, self._edges, right=True))
        self._counts[at] += 1
        self._sure[at] += confidence
        self._right[at] += right

    @property
    def error(self) -> float:
        """Mean distance between confidence and accuracy over the bins, by their predictions.

        Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
        """
        return float(np.abs(self._right - self._sure).sum() / self._counts.sum())

    def blocks(self, part: str, name: str, what: str) -> list[Block]:
        """The diagram, and what it says in words; nothing without a confidence.

        Args:
            part: that it belongs to.
            name: unique on the page, letters, digits and dashes.
            what: what was predicted, in the plural.
        """
        total = float(self._counts.sum())
        if not total:
            return []
        filled = self._counts > 0
        counts = np.maximum(self._counts, 1)
        accuracy = np.where(filled, self._right / counts, np.nan)
        svg = reliability_plot(accuracy, self._counts / total, name=name)
        mean, right = float(self._sure.sum()) / total, float(self._right.sum()) / total
        which = "too sure" if mean > right else "not sure enough"
        if abs(mean - right) < FAIR:
            which = "as sure as it is right"
        words = (
            f"{number(total)} {what}: mean confidence {share(mean)}, right {share(right)}: on the "
            f"whole {which}. Expected calibration error {share(self.error)} over {BINS} bins; "
            "bars that end on the dashed line are as often right as they claim."
        )
        return [Block("reliability", "Calibration", (svg, words), part, narrow=True)]
