"""The history on disk: every row once, exactly, and of a state no row that came after it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from plumbline.errors import CheckpointError
from plumbline.training.history import History
from plumbline.training.history_file import Extent, HistoryFile

ROWS = [{"global_step": n, "loss": 1 / (n + 3)} for n in range(6)]


def appended(path: Path, *counts: int) -> list[Extent]:
    """The extents of a history that was saved whenever it had so many steps."""
    file, history, extents = HistoryFile(path), History(), []
    for count in counts:
        history.steps += ROWS[len(history.steps) : count]
        extents.append(file.append(file.take(history)))
    return extents


def test_every_table_comes_back_exactly(tmp_path: Path) -> None:
    history = History(
        steps=[{"global_step": 1, "loss": 0.1 + 0.2}, {"global_step": 2, "loss": 1e-17}],
        micro=[{"micro_step": 0, "global_step": 1, "loss": 2e-300, "count": 0}],
        validations=[{"epoch": 1, "loss": 0.5}, {"epoch": 2, "score": 2.0, "loss": 0.4}],
        skipped=[{"global_step": 3, "reason": "ValueError: a\nb\u2028c\r", "samples": "4 7"}],
        splits=[{"global_step": 3, "micro_batch_size": 2}],
    )
    file = HistoryFile(tmp_path / "history.jsonl")
    extent = file.append(file.take(history))
    read = HistoryFile(file.path).read(json.loads(json.dumps(extent)), remedy="")
    assert read == history
    np.testing.assert_array_equal([row["loss"] for row in read.steps], [0.1 + 0.2, 1e-17])
    assert list(read.validations[1]) == ["epoch", "score", "loss"]  # the order of columns


def test_a_loss_that_is_no_number_comes_back(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / "history.jsonl")
    extent = file.append(file.take(History(steps=[{"loss": math.nan, "grad_norm": math.inf}])))
    (row,) = HistoryFile(file.path).read(extent, remedy="").steps
    np.testing.assert_array_equal([row["loss"], row["grad_norm"]], [math.nan, math.inf])


def test_saving_again_adds_what_is_new_alone(tmp_path: Path) -> None:
    one, two, same = appended(tmp_path / "parts", 2, 5, 5)
    (whole,) = appended(tmp_path / "whole", 5)
    assert 0 < one["bytes"] < two["bytes"]
    assert two == same == whole
    losses = [row["loss"] for row in HistoryFile(tmp_path / "parts").read(two, remedy="").steps]
    np.testing.assert_array_equal(losses, [row["loss"] for row in ROWS[:5]])
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len((tmp_path / "parts").read_bytes().splitlines()) == 5


@pytest.mark.parametrize("state", [0, 1, 2])
def test_rows_behind_a_state_are_cut_off_when_the_run_goes_on_from_it(
    tmp_path: Path, state: int
) -> None:
    counts = [2, 3, 6]
    extents = appended(tmp_path / "run", *counts)
    with (tmp_path / "run").open("ab") as file:
        file.write(b'{"steps": {"global')  # as a kill in the midst of writing leaves it
    resumed = HistoryFile(tmp_path / "run")
    history = resumed.read(extents[state], remedy="")
    expected = [row["loss"] for row in ROWS[: counts[state]]]
    np.testing.assert_array_equal([row["loss"] for row in history.steps], expected)
    history.steps.append({"global_step": 99})
    extent = resumed.append(resumed.take(history))
    assert (tmp_path / "run").stat().st_size == extent["bytes"]
    assert HistoryFile(tmp_path / "run").read(extent, remedy="").steps == history.steps


def test_reading_changes_nothing_on_disk(tmp_path: Path) -> None:
    first, _ = appended(tmp_path / "run", 2, 6)
    before = (tmp_path / "run").read_bytes()
    HistoryFile(tmp_path / "run").read(first, remedy="")
    assert (tmp_path / "run").read_bytes() == before


@pytest.mark.parametrize("how", ["one bit", "truncated", "gone"])
def test_a_damaged_file_is_refused_by_name_with_the_remedy(tmp_path: Path, how: str) -> None:
    path = tmp_path / "history.jsonl"
    (extent,) = appended(path, 3)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    {
        "one bit": lambda: path.write_bytes(data),
        "truncated": lambda: path.write_bytes(path.read_bytes()[:-1]),
        "gone": path.unlink,
    }[how]()
    with pytest.raises(CheckpointError, match=r"history\.jsonl: its bytes changed .*; do this"):
        HistoryFile(path).read(extent, remedy="do this")
