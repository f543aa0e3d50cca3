"""The notebooks of the docs run, and print what is stored in them."""

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs/examples").glob("*.ipynb"))
UNSTABLE = re.compile(r"/tmp/|/home/|/root/|\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d")
"""A path of somebody's machine, or a time."""


def texts(notebook: Any) -> list[list[str]]:
    """What each cell of code prints."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        [f"{out.get('name')}: {out['text']}" for out in cell.outputs if "text" in out]
        for cell in cells
    ]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_notebook_prints_what_is_stored_in_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))  # of this checkout
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    stored = nbformat.read(file, as_version=4)
    run = nbformat.read(file, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(run, timeout=300, kernel_name="python3", resources=resources).execute()
    assert texts(run) == texts(stored)
    assert sum(map(len, texts(stored))) >= 4


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_notebook_is_small_and_holds_nothing_of_a_machine(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert file.stat().st_size < 50_000
    assert not UNSTABLE.search(file.read_text(encoding="utf-8"))
    assert not [cell for cell in notebook.cells if cell.metadata]
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # run once, from the first to the last


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
