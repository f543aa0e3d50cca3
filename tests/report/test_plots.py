import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from plumbline.report.history import Series
from plumbline.report.plots import Line, line_plot, scatter_plot


def plot(name: str = "p") -> str:
    loss = Series(np.arange(1.0, 50.0), np.linspace(3.0, 1.0, 49))
    checks = Series(np.array([20.0, 40.0]), np.array([2.5, 1.5]))
    lines = [Line("training", loss), Line("validation", checks, "second", marked=True)]
    return str(line_plot(lines, name=name, y_label="nats"))


def test_the_same_curves_give_the_same_bytes() -> None:
    assert plot() == plot()


def test_a_users_matplotlibrc_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    before = plot()
    with matplotlib.rc_context({"lines.linestyle": "--", "font.size": 30, "axes.grid": False}):
        assert plot() == before


def test_colours_are_names_of_the_page_and_ids_begin_with_the_name() -> None:
    svg = plot("curve-1")
    assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'"#curve-1[^"]*"|url\(#[^)]*\)', "", svg))
    assert "var(--first)" in svg
    assert "var(--second)" in svg
    ids = re.findall(r' id="([^"]+)"', svg)
    assert ids
    assert all(one.startswith("curve-1-") for one in ids)


def test_it_is_one_element_without_metadata() -> None:
    svg = plot()
    assert ElementTree.fromstring(svg).tag == "svg"
    assert "matplotlib" not in svg.lower()
    assert "<style" not in svg


def test_a_single_point_is_drawn_as_a_dot() -> None:
    point = Series(np.array([7.0]), np.array([0.5]))
    assert "<use" in str(line_plot([Line("loss", point)], name="p", y_label="")).split("<defs>")[-2]


def test_a_scatter_plot_has_every_point_and_keeps_to_the_page() -> None:
    true = np.array([0.0, 1.0, 2.0])
    svg = str(scatter_plot(true, true + 0.5, name="s"))
    assert ElementTree.fromstring(svg).tag == "svg"
    drawn = re.findall(r"<use [^>]*fill: var\(--first\)|<use ", svg.split("<defs>")[-2])
    assert svg == str(scatter_plot(true, true + 0.5, name="s"))
    assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'"#s-[^"]*"|url\(#[^)]*\)', "", svg))
    assert drawn
    assert all(one.startswith("s-") for one in re.findall(r' id="([^"]+)"', svg))


def test_equal_values_can_be_drawn() -> None:
    assert "<svg" in str(scatter_plot(np.ones(2), np.ones(2), name="s"))
