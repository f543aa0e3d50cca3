"""What a sweep found is printed, written and drawn."""

import csv
import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plumbline.sweep.config import SweepConfig
from plumbline.sweep.figure import draw
from plumbline.sweep.live import LiveValues
from plumbline.sweep.study import Point
from plumbline.sweep.table import as_csv, as_text, best_of, rows, spread

SRC = Path(__file__).resolve().parents[2] / "src"


def config(**changed: Any) -> SweepConfig:
    settings: dict[str, Any] = {
        "space": {"lr": {"low": 0.001, "high": 1.0, "log": True}, "name": {"choice": ["a", "b"]}},
        "metric": "m.json:score",
        "direction": "maximize",
        "points": 4,
        "seeds": [1, 2],
    }
    return SweepConfig.model_validate({**settings, **changed})


def point(number: int, lr: str, name: str, **told: Any) -> Point:
    values = told.get("values", {})
    return Point(
        number=number,
        overrides=(f"lr={lr}", f"name={name}"),
        state=told.get("state", "complete"),
        value=sum(values.values()) / len(values) if values else None,
        values=values,
        queued=frozenset(),
        reason=told.get("reason"),
    )


POINTS = [
    point(0, "0.1", "a", values={"1": 0.25, "2": 0.75}),
    point(2, "0.01", "b", values={"1": 0.5, "2": 0.625}),
    point(3, "0.001", "a", state="failed", reason='out of memory, "cuda"'),
    point(4, "0.5", "b", state="pruned", reason="worse"),
    point(5, "0.6", "b", state="running"),
]


def table() -> list[dict[str, Any]]:
    return rows(config(), POINTS, [["s-1", "s-2"]] * 5)


def test_a_program_reads_back_every_figure() -> None:
    read = list(csv.DictReader(io.StringIO(as_csv(table()))))
    assert [row["point"] for row in read] == ["1", "2", "3", "4", "5"]
    assert [row["state"] for row in read][2:] == ["failed", "pruned", "running"]
    assert [row["lr"] for row in read][:3] == ["0.1", "0.01", "0.001"]
    assert [row["mean"] for row in read] == ["0.5", "0.5625", "", "", ""]
    assert float(read[0]["spread"]) == math.sqrt(0.125)  # of 0.25 and 0.75, by n - 1
    assert (read[0]["seed=1"], read[0]["seed=2"]) == ("0.25", "0.75")
    assert [row["best"] for row in read] == ["", "*", "", "", ""]
    assert read[2]["reason"] == 'out of memory, "cuda"'
    assert read[0]["experiments"] == "s-1 s-2"


def test_the_printed_table_is_aligned() -> None:
    head, *lines = as_text(table()).splitlines()
    assert len(lines) == 5
    column = head.index("mean")
    assert lines[1][column:].split()[0] == "0.5625"
    assert "experiments" not in head
    assert as_text([]) == ""


def test_the_best_follows_the_direction_and_the_earlier_of_equals_wins() -> None:
    best, worst = best_of(POINTS, "maximize"), best_of(POINTS, "minimize")
    assert best is not None
    assert worst is not None
    assert (best.number, worst.number) == (2, 0)
    equal = [POINTS[0], point(9, "0.2", "a", values={"1": 0.5})]
    assert best_of(equal, "maximize") == POINTS[0]
    assert best_of(POINTS[2:], "maximize") is None


def test_one_seed_has_no_spread() -> None:
    assert spread(point(0, "0.1", "a", values={"1": 0.5})) is None


def test_the_plot_is_the_same_for_the_same_points() -> None:
    drawn = draw(config(), POINTS)
    assert drawn == draw(config(), POINTS)
    assert drawn != draw(config(), POINTS[:1])
    text = drawn.decode()
    for words in ("score", "lr", "name", "point"):
        assert f">{words}" in text
    assert "<svg" in draw(config(), []).decode()


def test_a_resumed_run_has_its_values_once(tmp_path: Path) -> None:
    prune = {"stage": "finetune@vqa", "direction": "minimize"}
    live = LiveValues(tmp_path, config(prune=prune))
    runs = tmp_path / ".plumbline/runs"

    def write(folder: str, text: str) -> None:
        (runs / folder).mkdir(parents=True, exist_ok=True)
        with (runs / folder / "finetune@vqa-1.jsonl").open("a") as file:
            file.write(text)

    def event(step: int, value: str) -> str:
        return f'{{"event": "metrics", "step": {step}, "values": {{"val/loss": {value}}}}}\n'

    assert live.of("s-1") == []
    write("20260101-000000-s-1-7", event(5, "3.0") + event(10, "2.0")[:20])
    write("20260101-000000-s-2-8", event(5, "9.0"))
    assert live.of("s-1") == [-3.0]  # smaller is better there, larger in this sweep
    write("20260101-000000-s-1-7", event(10, "2.0")[20:] + event(15, '"nan"'))
    assert live.of("s-1") == [-3.0, -2.0]
    write("20260101-000100-s-1-9", event(10, "2.0") + event(15, "1.5"))
    assert live.of("s-1") == [-3.0, -2.0, -1.5]


def test_the_command_needs_no_torch() -> None:
    code = "import sys, plumbline.cli.sweep; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(SRC), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize(
    "stage", sorted((SRC / "plumbline/stages").glob("*.py")), ids=lambda path: path.stem
)
def test_no_stage_imports_the_sweep(stage: Path) -> None:
    assert "plumbline.sweep" not in stage.read_text(encoding="utf-8")
