"""Raw rows are written in files of bounded size, and a source is chosen by name."""

import base64
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plumbline.config import Config, check_config
from plumbline.data.columns import MAX_CELL_BYTES
from plumbline.data.parquet import declared_splits, list_parquet
from plumbline.data.undecodable import MAX_BYTES
from plumbline.errors import ConfigError, DataError
from plumbline.registry import OneOf
from plumbline.sources import registry
from plumbline.sources.registry import SOURCES, Source, write_raw
from plumbline.sources.scenes import ScenesSource
from plumbline.stages.prepare import PrepareConfig
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.validate import validate
from tests.validation.validation_run import png


def batches(*sizes: int) -> list[pa.RecordBatch]:
    rows = iter(range(sum(sizes)))
    return [pa.RecordBatch.from_pydict({"n": [next(rows) for _ in range(s)]}) for s in sizes]


def test_rows_keep_their_order_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ROWS_PER_FILE", 5)
    assert write_raw(iter(batches(3, 3, 2, 4, 1)), [], tmp_path) == 13
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == [f"rows-0000{n}.parquet" for n in range(3)]
    assert [n for f in files for n in pq.read_table(f)["n"].to_pylist()] == list(range(13))


def test_the_splits_that_a_source_has_are_noted_in_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "ROWS_PER_FILE", 2)
    write_raw(iter(batches(3, 4)), ["test", "train"], tmp_path)
    files = list_parquet(tmp_path)
    assert len(files) == 4
    for file in files:
        assert declared_splits([file]) == {"test", "train"}


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_a_source_without_rows_is_refused(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the source has zero rows"):
        write_raw(iter(batches(*sizes)), [], tmp_path)


HUGE = MAX_CELL_BYTES + 10**6


def write_huge(kind: str, folder: Path) -> dict[str, Any]:
    """A dataset of two rows, one of which has a huge cell; the settings of its source."""
    picture = png(1)
    if kind == "imagefolder":
        with (folder / "huge.png").open("wb") as file:
            file.truncate(2**32)  # sparse: its size costs no disk
        (folder / "small.png").write_bytes(picture)
        return {"source": "imagefolder", "labels": "none"}
    if kind == "base64":
        cells = [base64.b64encode(cell).decode() for cell in (bytes(HUGE), picture)]
    else:
        cells = ["a" * HUGE, "a text"]
    if kind == "text":
        (folder / "rows.txt").write_text("\n".join(cells), encoding="utf-8")
        return {"source": "text", "unit": "line"}
    if kind == "csv":
        (folder / "rows.csv").write_text("\n".join(["cell", *cells]), encoding="utf-8")
        return {"source": "csv", "columns": {"text": "cell"}}
    lines = [f'{{"cell": "{cell}"}}' for cell in cells]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    column = {"image": "cell"} if kind == "base64" else {"text": "cell"}
    return {"source": "jsonl", "columns": column, "media": "base64"}


@pytest.mark.parametrize("kind", ["imagefolder", "base64", "csv", "jsonl", "text"])
def test_a_huge_cell_costs_its_own_row_and_no_other(kind: str, tmp_path: Path) -> None:
    data, raw, clean, quarantine = (tmp_path / n for n in ("data", "raw", "clean", "quarantine"))
    for folder in (data, raw, clean, quarantine):
        folder.mkdir()
    source = SOURCES[(settings := write_huge(kind, data))["source"]].model_validate(settings)
    assert write_raw(source.read(data), [], raw) == 2
    column = "image" if kind in ("imagefolder", "base64") else "text"
    # The highest limit that can be set: what was kept of the cell must be above it.
    limits = {"max_image_bytes": MAX_BYTES, "max_text_chars": MAX_CELL_BYTES // 4 - 1}
    config = ValidationConfig(views={"v": [column]}, max_dropped_share=0.5, **limits)
    report = validate(raw, clean, quarantine, config)
    assert report["rows_clean"] == {"train": 1}
    assert report["reasons"] == {f"{column}_too_{'large' if column == 'image' else 'long'}": 1}


def test_the_error_of_a_source_comes_through(tmp_path: Path) -> None:
    def failing() -> object:
        yield from batches(3)
        raise DataError("planted")

    with pytest.raises(DataError, match="planted"):
        write_raw(failing(), [], tmp_path)  # type: ignore[arg-type]


class Choice(Config):
    prepare: Annotated[Source, OneOf(SOURCES, "source")]


def test_a_source_is_chosen_by_its_name(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"source": "scenes", "images": 10, "image_size": 16}
    source = Choice.model_validate({"prepare": settings}).prepare
    assert isinstance(source, ScenesSource)
    assert sum(b.num_rows for b in source.read(tmp_path / "nowhere")) == 10 * 9
    assert source.given_splits == []


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_is_registered_under_the_name_that_chooses_it(name: str) -> None:
    assert get_args(SOURCES[name].model_fields["source"].annotation) == (name,)


PREPARE = {"path": "path", "prepare": "datasets.x.prepare"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "parqet", "columns": {}},
            "datasets.x.prepare.source = 'parqet': unknown; did you mean parquet? (there is scenes",
        ),
        ({"columns": {}}, "datasets.x.prepare.source: missing; one of scenes"),
        (
            {"source": "parquet", "columns": {"sample_id": "i"}, "split": {}},
            "datasets.x.prepare.split: unknown key; did you mean splits?",
        ),
        (
            {"source": "text", "unit": 3},
            "datasets.x.prepare.unit = 3: input should be 'file', 'paragraph' or 'line'",
        ),
        (
            {"source": "parts", "parts": {"a": {"source": "text", "untt": "line"}}},
            "datasets.x.prepare.parts.a.untt: unknown key; did you mean unit?",
        ),
        (
            {"source": "parts", "parts": {"a": {"source": "txt"}}},
            "datasets.x.prepare.parts.a.source = 'txt': unknown; did you mean text?",
        ),
        (
            {"source": "imagefolder", "table": {"file": "t", "columns": {}, "kee": "x"}},
            "datasets.x.prepare.table.kee: unknown key; did you mean key?",
        ),
    ],
)
def test_a_wrong_setting_of_a_source_is_one_line(settings: dict[str, Any], message: str) -> None:
    params = {"path": "p", "datasets": {"x": {"prepare": settings}}}
    with pytest.raises(ConfigError) as caught:
        check_config(PrepareConfig, PREPARE, params)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


PLUGIN = """
import sys
from pathlib import Path
from typing import Literal

import pyarrow as pa

from plumbline.config import check_config
from plumbline.sources.registry import SOURCES, Source


class CountingSource(Source):
    source: Literal["counting"]
    rows: int

    @property
    def given_splits(self):
        return []

    def read(self, path):
        yield pa.RecordBatch.from_pydict({"sample_id": [str(n) for n in range(self.rows)]})


SOURCES.register("counting", CountingSource)

from plumbline.validation.settings import ValidationConfig
from plumbline.validation.validate import validate
from plumbline.stages.prepare import PrepareConfig
from tests.validation.validation_run import png

inner = {"source": "counting", "rows": 3}
for settings in (inner, {"source": "parts", "parts": {"a": inner}}):
    sections = {"path": "path", "prepare": "prepare"}
    config = check_config(PrepareConfig, sections, {"path": "p", "prepare": settings})
    assert config.model_dump(mode="json")["prepare"] == settings
    print([row for batch in config.prepare.read(Path("p")) for row in batch.to_pylist()][-1])
"""


def test_a_source_of_a_plugin_needs_no_edit_of_the_package() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PLUGIN], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["{'sample_id': '2'}", "{'sample_id': '2', 'part': 'a'}"]
