"""The tutorial's folder is imported as the page quotes it, and its commands are commands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.cli.main import COMMANDS, build_parser, call

PAGE = (Path(__file__).resolve().parents[1] / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = [
    line.partition("  #")[0] for kind, block in BLOCKS if not kind for line in block.split("\n")
]
CALLED = [line.strip() for line in LINES if line.startswith("plumbline ")]


@pytest.mark.parametrize("line", CALLED)
def test_a_command_of_the_page_is_one(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    assert name in COMMANDS
    build_parser(name).parse_intermixed_args(arguments)


def test_the_page_has_its_commands() -> None:
    assert [shlex.split(line)[1] for line in CALLED] == [
        *("init", "import", "run", "data", "run", "compare", "try", "predict")
    ]


def test_the_folder_is_imported_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = [block for kind, block in BLOCKS if kind == "python"]
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    call(["init", "my-project"])
    monkeypatch.chdir(tmp_path / "my-project")
    capsys.readouterr()
    call(["import", "../shapes"])
    said = capsys.readouterr().out.splitlines()
    (quoted,) = [block for _, block in BLOCKS if block.startswith("../shapes: ")]
    # What is proposed depends on the cores of a machine.
    lines = [line for line in quoted.splitlines() if line != "..." and "CPU cores" not in line]
    assert len(lines) > 10
    assert [line for line in lines if line not in said] == []
