"""From a folder to a bundle without an edit: `plumbline import`, then what it prints."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.importing import layouts
from tests.pipeline.checkout import make_checkout

SHORT = {
    "class folders": (layouts.class_folders, "", "accuracy"),
    "images and a table": (layouts.images_and_csv, "", "caption_rouge_l"),
    "conversations": (layouts.messages, "messages.jsonl", "perplexity"),
}


@pytest.mark.slow
@pytest.mark.parametrize("which", SHORT)
def test_what_is_imported_trains_is_measured_and_exported(tmp_path: Path, which: str) -> None:
    make: Callable[[Path], None]
    make, path, figure = SHORT[which]
    make(tmp_path / "mine")
    checkout = make_checkout(tmp_path / "project")
    checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: null")
    said = checkout.run("plumbline", "import", str(tmp_path / "mine" / path), "--name", "mine")
    command = said.stdout.splitlines()[-1].removeprefix("train: ").split()
    assert command == ["plumbline", "run", "mine"]
    short = ["-S", "tasks.mine.train.trainer.epochs=1", "-S", "threads=1"]
    if (checkout.folder / "conf/align/mine.yaml").is_file():
        short += ["-S", "align.mine.train.trainer.epochs=1"]
    checkout.run(*command, *short)
    figures = json.loads((checkout.folder / "metrics/tasks/mine.json").read_text("utf-8"))
    assert figure in figures
    assert (checkout.folder / "exports/mine/inference.py").is_file()
    assert "mine" in (checkout.folder / "report/index.html").read_text("utf-8")
    status = checkout.run("git", "status", "--porcelain").stdout
    assert "conf/tasks/mine.yaml" in status
