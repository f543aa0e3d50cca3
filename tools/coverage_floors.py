"""Hold the coverage of each package: `python -m tools.coverage_floors coverage.json`.

The floors stand in pyproject.toml, `[tool.coverage_floors]`: a package or module below
src/plumbline, and the least share of its lines in percent. A package that is not named has
`default`. One number for all would let a new package hide behind the others.
"""

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SOURCE = "src/plumbline/"
PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def measure(report: Mapping[str, Any], place: str) -> float | None:
    """Percent of the lines of a package or module that a run has covered; None: there is none.

    Args:
        report: what coverage writes as JSON.
        place: below src/plumbline, such as `export` or `training/clock.py`; "" for the modules
            that lie in no package.
    """
    covered = statements = 0
    for name, file in report["files"].items():
        inner = name.removeprefix(SOURCE)
        mine = (
            "/" not in inner if place == "" else (inner == place or inner.startswith(f"{place}/"))
        )
        if mine:
            covered += file["summary"]["covered_lines"]
            statements += file["summary"]["num_statements"]
    return 100 * covered / statements if statements else None


def find_shortfalls(report: Mapping[str, Any], floors: Mapping[str, float]) -> list[str]:
    """A line for each package or module below its floor, and for each floor of nothing."""
    default = floors["default"]
    packages = {
        name.removeprefix(SOURCE).split("/")[0] if "/" in name.removeprefix(SOURCE) else ""
        for name in report["files"]
    }
    wanted = dict.fromkeys(packages, default) | {
        place: floor for place, floor in floors.items() if place != "default"
    }
    lines = []
    for place, floor in sorted(wanted.items()):
        share = measure(report, place)
        name = f"{SOURCE}{place}"
        if share is None:
            lines.append(f"{name}: no such package or module in the report; take its floor out")
        elif share < floor:
            lines.append(f"{name}: {share:.1f} % of its lines are covered, {floor:g} % are needed")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Print what is below its floor; 1 where anything is."""
    (file,) = arguments
    floors = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["coverage_floors"]
    report = json.loads(Path(file).read_text(encoding="utf-8"))
    for line in (lines := find_shortfalls(report, floors)):
        print(line, file=sys.stderr)
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
