"""The pages of settings in the docs are those that the code makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.schema.documents import schemas
from tools.settings_reference import FOLDER, Reference

ROOT = Path(__file__).resolve().parents[2]
REMEDY = "run python -m tools.settings_reference"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a process of its own: tests of plugins may have registered more in this one."""
    folder = tmp_path_factory.mktemp("made")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "tools.settings_reference", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return folder


@pytest.mark.parametrize(
    ("folder", "pattern"), [(FOLDER.as_posix(), "settings*.md"), ("schema", "*.json")]
)
def test_what_is_committed_is_what_the_code_makes(made: Path, folder: str, pattern: str) -> None:
    ours = {file.name: file.read_bytes() for file in (made / folder).glob(pattern)}
    theirs = {file.name: file.read_bytes() for file in (ROOT / folder).glob(pattern)}
    assert len(ours) > 5
    assert sorted(ours) == sorted(theirs), REMEDY
    assert [name for name, text in ours.items() if theirs[name] != text] == [], REMEDY


def test_every_setting_stands_on_a_page() -> None:
    schema = schemas()["params.json"]
    text = "\n".join(Reference(schema).pages().values())
    missing = [
        f"{group}.{name}"
        for group, definition in schema["definitions"].items()
        for name, inner in definition.get("properties", {}).items()
        if len(inner.get("enum", "ab")) > 1 and "const" not in inner and f"**`{name}`**" not in text
    ]
    # What chooses one of several groups stands in the heading of each.
    assert {name.rpartition(".")[2] for name in missing} <= {"kind", "name", "source", "modality"}


def test_headings_of_a_page_differ_so_that_links_lead_to_one() -> None:
    for name, text in Reference(schemas()["params.json"]).pages().items():
        headings = [line for line in text.splitlines() if line.startswith("#")]
        assert len(set(headings)) == len(headings), name


@pytest.mark.parametrize(
    ("line", "page"),
    [
        ("- **`epochs`**: integer from 1, default `1`.", "settings-training.md"),
        ("- **`port`**: integer from 0 to 65535, default `8080`.", "settings-export.md"),
        ("- **`arch`**: text, required.", "settings-models.md"),
        ("- **`level`**: `cheap`, `header` or `full`, default `full`.", "settings-data.md"),
    ],
)
def test_a_setting_has_its_type_range_and_default(line: str, page: str) -> None:
    assert line in Reference(schemas()["params.json"]).pages()[page]
