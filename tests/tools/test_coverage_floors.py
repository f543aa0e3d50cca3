"""Floors for the coverage of each package: none can hide behind the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools import coverage_floors
from tools.coverage_floors import find_shortfalls, main, measure


def report(**lines: tuple[int, int]) -> dict[str, Any]:
    """A report of (covered, all) lines by module, `__` for `/`."""
    return {
        "files": {
            f"src/plumbline/{name.replace('__', '/')}.py": {
                "summary": {"covered_lines": covered, "num_statements": statements}
            }
            for name, (covered, statements) in lines.items()
        }
    }


FOUND = report(
    paths=(8, 10), export__bundle=(90, 100), export__plan=(0, 20), training__clock=(19, 20)
)


def test_a_share_is_of_the_lines_of_all_modules() -> None:
    assert measure(FOUND, "export") == 75.0
    assert measure(FOUND, "training/clock.py") == 95.0
    assert measure(FOUND, "") == 80.0
    assert measure(FOUND, "expo") is None


def test_every_package_has_the_default_floor_unless_it_has_its_own() -> None:
    assert find_shortfalls(FOUND, {"default": 75}) == []
    assert find_shortfalls(FOUND, {"default": 81, "export": 70}) == [
        "src/plumbline/: 80.0 % of its lines are covered, 81 % are needed"
    ]
    assert find_shortfalls(FOUND, {"default": 0, "training/clock.py": 96}) == [
        "src/plumbline/training/clock.py: 95.0 % of its lines are covered, 96 % are needed"
    ]


def test_a_floor_of_nothing_is_said() -> None:
    (line,) = find_shortfalls(FOUND, {"default": 0, "exprot": 85})
    assert line == (
        "src/plumbline/exprot: no such package or module in the report; take its floor out"
    )


@pytest.mark.parametrize(("floor", "code"), [(75, 0), (76, 1)])
def test_the_command_fails_where_a_package_lies_below(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    floor: int,
    code: int,
) -> None:
    settings = tmp_path / "pyproject.toml"
    settings.write_text(f"[tool.coverage_floors]\ndefault = {floor}\n", encoding="utf-8")
    monkeypatch.setattr(coverage_floors, "PYPROJECT", settings)
    (tmp_path / "coverage.json").write_text(json.dumps(FOUND), encoding="utf-8")
    assert main([str(tmp_path / "coverage.json")]) == code
    assert ("src/plumbline/export: 75.0 %" in capsys.readouterr().err) == bool(code)
