"""The README's way to one's own data, as it stands there, from Parquet files to a bundle."""

import io
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.pipeline.checkout import ROOT, Checkout, make_checkout

COLOURS = ("red", "green", "blue", "yellow")
STAGES = {
    "mine": ("prepare", "validate", "detect_shapes", "tokenize_text"),
    "image": ("pretrain_alignment", "evaluate_alignment", "export_alignment"),
    "vqa": ("finetune", "evaluate_model", "export_model"),
}


def blocks() -> dict[str, Any]:
    """The YAML of the section, by the file that the text before it names."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Your own data")[2].partition("\n## ")[0]
    found = re.findall(r"`(conf/[^`]+/mine\.yaml)`[^`]*```yaml\n(.*?)```", section, re.DOTALL)
    return {file: yaml.safe_load(block) for file, block in found}


def write_tables(folder: Path, dataset: dict[str, Any]) -> None:
    """Parquet files with the splits and the columns that the settings name."""
    columns, draw = dataset["prepare"]["columns"], random.Random(0)
    splits = {"train": ("train.parquet", 80), "test": ("test.parquet", 20)}
    folder.mkdir(parents=True)
    for split, (name, photos) in splits.items():
        rows = []
        for photo in range(photos):
            colour = draw.choice(COLOURS)
            noise = draw.randbytes(40 * 30 * 3)
            picture = Image.frombytes("RGB", (40, 30), noise)
            picture.paste(colour, (5, 5, 35, 25))
            file = io.BytesIO()
            picture.save(file, "JPEG")
            for number in range(2):
                row = {
                    "sample_id": f"{split}-{photo}-{number}",
                    "group": f"{split}-{photo}",
                    "image": file.getvalue(),
                    "caption": f"a {colour} board, number {photo}",
                    "question": ("which colour is it?", f"what stands on photo {photo}?")[number],
                    "answer": colour,
                }
                rows.append({theirs: row[ours] for ours, theirs in columns.items()})
        pq.write_table(pa.Table.from_pylist(rows), folder / name)


def merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, those of `second` before those of `first`."""
    both = {key: (first[key], second[key]) for key in first.keys() & second.keys()}
    nested = {
        key: merge(*pair) for key, pair in both.items() if all(isinstance(p, dict) for p in pair)
    }
    return {**first, **second, **nested}


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False], ids=["splits given", "splits left out"])
def test_the_dataset_block_trains_to_its_end(tmp_path: Path, given: bool) -> None:
    checkout = make_checkout(tmp_path / "project")
    written = blocks()
    dataset, experiment = (
        written[f"conf/{group}/mine.yaml"] for group in ("datasets", "experiment")
    )
    write_tables(checkout.folder / dataset["mine"]["path"], dataset["mine"])
    if not given:
        del dataset["mine"]["prepare"]["splits"]
    # The models of the smoke preset, so that it takes seconds; all else as the page has it.
    smoke = yaml.safe_load((ROOT / "conf/experiment/smoke.yaml").read_text(encoding="utf-8"))
    del smoke["datasets"], smoke["align"]["image"]["train"]["model"]["image_encoder"]["patch_size"]
    for file, settings in written.items():
        head, body = "", settings
        if file.startswith("conf/experiment"):
            head, body = "# @package _global_\n", merge(smoke, experiment)
        (checkout.folder / file).write_text(
            head + yaml.safe_dump(body, sort_keys=False), encoding="utf-8"
        )
    checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: mine")
    stage(checkout, "check_params", "--write")
    stage(checkout, "check_params")
    for key, names in STAGES.items():
        for name in names:
            stage(checkout, name, key)
    stage(checkout, "report")
    figures = json.loads((checkout.folder / "metrics/tasks/vqa.json").read_text(encoding="utf-8"))
    assert "exact_match" in figures
    page = (checkout.folder / "report/index.html").read_text(encoding="utf-8")
    assert "which colour is it?" in page
    assert (checkout.folder / "exports/vqa/inference.py").is_file()


def stage(checkout: Checkout, name: str, *arguments: str) -> None:
    checkout.run(sys.executable, "-m", f"stages.{name}", *arguments)


def test_the_page_names_the_files_that_the_test_writes() -> None:
    assert list(blocks()) == ["conf/datasets/mine.yaml", "conf/experiment/mine.yaml"]
