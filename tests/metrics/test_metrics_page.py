"""The page of figures names every figure, which way is better, and when it means nothing."""

import re
from pathlib import Path

import pytest

from plumbline.metrics.known import METRICS, Metric, find_metric

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/metrics.md"
ROWS = {
    name: [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
    for name in re.findall(r"`([^`]+)`", line.split("|")[1])
}
WORDS = {"min": "lower", "max": "higher"}
BUILT_IN = list(METRICS)


def row_of(metric: Metric) -> list[str]:
    return [WORDS[metric.better], metric.undefined]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_figure_stands_on_the_page_as_it_is_known(name: str) -> None:
    assert name in ROWS
    _, better, what, undefined = ROWS[name]
    assert [better, undefined] == row_of(METRICS[name])
    assert len(what) > 10


def test_a_figure_of_the_page_is_one() -> None:
    for name, (_, better, _, undefined) in ROWS.items():
        known = find_metric(name.replace("...", "recall_at_1"))
        assert known is not None, name
        assert [better, undefined] == row_of(known)
