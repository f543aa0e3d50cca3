"""What `bench.imported` compares is what the recipes train, and its figures are counted right."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.imported import SETS, Side, characters
from plumbline.config import compose_yaml
from plumbline.params import entries_of
from tests.pipeline.checkout import ROOT


@pytest.mark.parametrize("name", SETS)
def test_a_set_names_the_entries_of_its_recipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path))
    params = compose_yaml(ROOT / "conf", "config", [f"experiment={name}"])
    one = SETS[name]
    assert list(entries_of(params, "tasks")) == [one.task]
    assert list(entries_of(params, "align")) == ([one.align] if one.align else [])
    (data,) = entries_of(params, "datasets").values()
    assert isinstance(data, dict)
    assert data["path"] == f"{tmp_path}/{one.folder}"


def test_an_alignment_is_trained_before_what_starts_from_it(tmp_path: Path) -> None:
    side = Side(tmp_path, tmp_path, "x", "d", "t", "a", "loss")
    assert side.trainings == [("pretrain_alignment", "a", "align"), ("finetune", "t", "tasks")]


def test_characters_are_those_of_the_texts(tmp_path: Path) -> None:
    folder = tmp_path / "work/clean/plays"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["ab\n", "ü"]}), folder / "val.parquet")
    assert characters(tmp_path, "plays", "val") == 4
