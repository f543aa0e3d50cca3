"""Recording i depends on (seed, part, i) alone; the parts are unlike, unbalanced and faulty."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from plumbline.data.arrays import decode_array
from plumbline.sources.signals import CHANNELS, COLUMNS, PARTS, SignalsSource, recording

CONFIG = SignalsSource(source="signals", recordings=600, subjects=12)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [row for batch in CONFIG.read(Path("nowhere")) for row in batch.to_pylist()]


def arrays(rows: list[dict[str, Any]], part: str, label: str) -> list[np.ndarray]:
    found = [r["features"] for r in rows if (r["part"], r["label"]) == (part, label)]
    return [a for a in map(decode_array, found) if np.isfinite(a).all()]


def test_every_row_is_whole_and_ids_are_its_own(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 2 * 600
    assert tuple(rows[0]) == COLUMNS
    assert Counter(row["part"] for row in rows) == {"pain": 600, "stimulus": 600}
    assert len({row["sample_id"] for row in rows}) == len(rows)
    lengths = set()
    for row in rows:
        array = decode_array(row["features"])
        assert array.shape[1] == len(CHANNELS)
        assert (array.dtype, np.isinf(array).any()) == (np.float32, False)
        lengths.add(len(array))
    assert (min(lengths), max(lengths)) == (40, 120)


def test_equal_seeds_give_equal_bytes_and_shorter_sets_are_the_beginning() -> None:
    first = [recording(CONFIG, part, index) for part in PARTS for index in range(20)]
    longer = CONFIG.model_copy(update={"recordings": 9000})
    assert [recording(longer, part, index) for part in PARTS for index in range(20)] == first
    other = CONFIG.model_copy(update={"seed": 1})
    assert recording(other, "pain", 0)["features"] != first[0]["features"]


def test_the_bytes_of_a_recording_are_those_of_every_machine() -> None:
    data = recording(CONFIG, "pain", 3)["features"]
    assert data is not None
    assert hashlib.sha256(data).hexdigest()[:16] == "3ae88d43b8f9866f"


def test_parts_share_none_and_the_rarest_label_has_about_a_twentieth(
    rows: list[dict[str, Any]],
) -> None:
    assert set(PARTS["pain"]) & set(PARTS["stimulus"]) == {"none"}
    for part, labels in PARTS.items():
        counts = Counter(row["label"] for row in rows if row["part"] == part)
        assert set(counts) == set(labels)
        assert 0.02 < min(counts.values()) / 600 < 0.07
        assert sum(r.share for r in labels.values()) == pytest.approx(1.0)


def test_a_subject_s_recordings_are_a_group_within_a_part(rows: list[dict[str, Any]]) -> None:
    groups = Counter(row["group"] for row in rows)
    assert len(groups) == 2 * 12
    assert all(group.startswith(("pain-", "stimulus-")) for group in groups)


def test_people_are_unlike_each_other(rows: list[dict[str, Any]]) -> None:
    levels: dict[str, list[float]] = {}
    for row in rows:
        if np.isfinite(array := decode_array(row["features"])).all():
            levels.setdefault(row["group"], []).append(float(np.median(array[:, 3])))
    between = np.std([np.median(values) for values in levels.values()])
    within = np.median([np.std(values) for values in levels.values()])
    assert between > 1.5 * within


def test_some_recordings_have_lost_values_and_none_without_the_setting(
    rows: list[dict[str, Any]],
) -> None:
    faulty = sum(bool(np.isnan(decode_array(row["features"])).any()) for row in rows)
    assert 2 <= faulty <= 30
    clean = CONFIG.model_copy(update={"faulty_share": 0.0})
    for index in range(100):
        cell = recording(clean, "stimulus", index)["features"]
        assert cell is not None
        assert np.isfinite(decode_array(cell)).all()


def test_more_pain_makes_a_stronger_answer_of_the_skin(rows: list[dict[str, Any]]) -> None:
    rises = [
        np.mean([np.ptp(a[:, 0]) for a in arrays(rows, "pain", label)]) for label in PARTS["pain"]
    ]
    assert rises == sorted(rises)
    assert rises[-1] > 1.5 * rises[0]


def test_heat_warms_and_cold_cools(rows: list[dict[str, Any]]) -> None:
    change = {
        label: np.mean(
            [a[-5:, 3].mean() - a[:5, 3].mean() for a in arrays(rows, "stimulus", label)]
        )
        for label in PARTS["stimulus"]
    }
    assert change["cold"] < change["none"] - 0.2 < change["none"] + 0.2 < change["heat"]


@pytest.mark.parametrize("steps", [[7, 20], [50, 40], [40], [40, 20_000]])
def test_lengths_that_cannot_be_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValidationError, match="steps"):
        SignalsSource(source="signals", steps=steps)
