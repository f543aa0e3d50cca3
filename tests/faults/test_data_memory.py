"""No data stage takes more memory for ten times the rows."""

import shutil

import pytest

from tests.faults.stage_memory import STAGES, run_stage, write_inputs

FEW, MANY = 1_500, 15_000
"""15 and 150 MB of images, and as much of text for each other source."""

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
