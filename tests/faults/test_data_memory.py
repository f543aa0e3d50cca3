"""No data stage takes more memory for ten times the rows, small or large."""

import shutil
from pathlib import Path

import pytest

from tests.faults.stage_memory import (
    CLIP_STAGES,
    STAGES,
    run_stage,
    write_clips,
    write_inputs,
)

FEW, MANY = 1_500, 15_000
"""15 and 150 MB of images, and as much of text for each other source."""

FEW_LARGE, MANY_LARGE = 6, 60
"""Clips of 20 MB: 120 MB and 1.2 GB. Fewer than 6 do not keep two processes busy."""

Peaks = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> Peaks:
    """Peak resident memory of each stage in MB, with few rows and with many."""
    found: dict[int, dict[str, int]] = {}
    for rows in (FEW, MANY):
        folder = tmp_path_factory.mktemp("rows")
        write_inputs(folder, rows)
        found[rows] = {stage: run_stage(stage, folder) for stage in STAGES}
        shutil.rmtree(folder)
    return {stage: (found[FEW][stage], found[MANY][stage]) for stage in STAGES}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_ten_times_the_rows_take_no_more_memory(peaks: Peaks, stage: str) -> None:
    few, many = peaks[stage]
    assert many <= 1.2 * few


@pytest.fixture(scope="module")
def clip_peaks(tmp_path_factory: pytest.TempPathFactory) -> Peaks:
    """As `peaks`, with few and many large cells among small ones, and one that is too large."""
    found: dict[int, dict[str, int]] = {}
    for clips, runs in ((FEW_LARGE, 3), (MANY_LARGE, 1)):
        folder = tmp_path_factory.mktemp("clips")
        write_clips(folder, clips)
        found[clips] = {stage: _highest(stage, folder, runs) for stage in CLIP_STAGES}
        shutil.rmtree(folder)
    few, many = found[FEW_LARGE], found[MANY_LARGE]
    return {stage: (few[stage], many[stage]) for stage in CLIP_STAGES}


def _highest(stage: str, folder: Path, runs: int) -> int:
    """The highest peak of some runs.

    Arrow's allocator gives memory back after a moment, so that the peak of one run over few rows
    depends on when that was: 429 to 486 MB of five runs of `validate`. Many rows are many moments.
    """
    peaks = []
    for _ in range(runs):
        shutil.rmtree(folder / "out" / stage, ignore_errors=True)
        peaks.append(run_stage(stage, folder))
    return max(peaks)


@pytest.mark.slow
@pytest.mark.parametrize("stage", CLIP_STAGES)
def test_ten_times_the_large_cells_take_no_more_memory(clip_peaks: Peaks, stage: str) -> None:
    few, many = clip_peaks[stage]
    assert many <= 1.2 * few
    assert many < 1000
