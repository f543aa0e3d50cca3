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
    "images and their ids": (layouts.ids_without_endings, "", "accuracy"),
    "sounds and a table": (layouts.clips_and_csv, "", "accuracy"),
    "Parquet in folders": (layouts.nested_parquet, "", "perplexity"),
    "Parquet of a hub": (layouts.hub_layout, "", "accuracy"),
    "tar shards": (layouts.webdataset, "", "caption_rouge_l"),
    "a table of whole floats": (layouts.float_labels_csv, "float_labels.csv", "accuracy"),
    "questions on images": (layouts.telling_questions, "", "exact_match"),
    "messages": (layouts.messages, "messages.jsonl", "perplexity"),
    "alpaca": (layouts.alpaca, "alpaca.jsonl", "perplexity"),
    "sharegpt": (layouts.sharegpt, "sharegpt.jsonl", "perplexity"),
    "messages that show images": (layouts.messages_with_images, "", "exact_match"),
    "alpaca that shows images": (layouts.alpaca_with_images, "", "exact_match"),
    "sharegpt that shows images": (layouts.sharegpt_with_images, "", "exact_match"),
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
