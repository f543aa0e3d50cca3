"""What the cache says of each kind of data: media of unequal length, parts, labels, numbers."""

import csv
import io
import math
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from plumbline.batch import IGNORE_INDEX
from plumbline.data.arrays import decode_array
from plumbline.data.audio import decode_mono
from plumbline.errors import DataError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.tokenization.media import open_media
from plumbline.tokenization.stores import Stores
from plumbline.training.task import TrainingJob
from tests.tiny import (
    DATA,
    DIGITS,
    RATE,
    SIZES,
    SPEAKERS,
    TOKENIZE,
    Row,
    array,
    make_cache,
    picture,
    sentence,
    write_clean,
    write_rows,
)

Caches = Callable[[str], TrainingCache]


def table(name: str, split: str, tmp_path: Path) -> list[Row]:
    write_clean(tmp_path, name)
    rows: list[Row] = pq.read_table(tmp_path / f"{split}.parquet").to_pylist()
    return rows


def test_gray_images_are_cached_as_one_channel_of_luma(caches: Caches, tmp_path: Path) -> None:
    cache, expected = caches("gray"), table("gray", "test", tmp_path)
    assert cache.facts["image_shape"] == [16, 16, 1]
    assert (cache.folder / "images.bin").stat().st_size == cache.facts["images"] * 16 * 16
    for number, row in zip(cache.rows("test")["image"], expected, strict=True):
        luma = np.asarray(Image.open(io.BytesIO(row["image"])).convert("L"))
        assert np.array_equal(cache.images[number], luma[..., None])


def test_a_clip_of_two_parts_is_stored_once_and_comes_back(caches: Caches, tmp_path: Path) -> None:
    cache, expected = caches("clips"), table("clips", "test", tmp_path)
    assert cache.facts["audio"]["clips"] == sum(SIZES.values())
    assert cache.facts["parts"] == ["digit", "speaker"]
    rows = cache.rows("test")
    assert len(rows["audio"]) == len(expected) > SIZES["test"]
    for at, row in enumerate(expected):
        number = int(rows["audio"][at])
        assert np.array_equal(cache.audio(number), decode_mono(row["audio"], RATE))
        assert cache.lengths("audio")[number] == len(cache.audio(number))
        part = cache.facts["parts"][rows["part"][at]]
        assert part == row["part"]
        assert cache.classes()[part][rows["label"][at]] == row["label"]


def test_each_part_has_classes_of_its_own(caches: Caches) -> None:
    """The data settings alone say which classes there are."""
    assert caches("clips").classes() == {"digit": sorted(DIGITS), "speaker": sorted(SPEAKERS)}
    assert caches("signals").classes() == {
        "pain": ["high", "low", "none"],
        "stimulus": ["heat", "none"],
    }
    assert caches("text").classes() == {}


def test_feature_arrays_come_back_with_their_moments(caches: Caches, tmp_path: Path) -> None:
    cache, rows = caches("signals"), table("signals", "train", tmp_path)
    arrays = [decode_array(row["features"]) for row in rows]
    for number, one in zip(cache.rows("train")["features"], arrays, strict=True):
        assert np.array_equal(cache.features(int(number)), one)
    steps = np.concatenate(arrays).astype(np.float64)
    facts = cache.facts["features"]
    np.testing.assert_allclose(facts["mean_of_channels"], steps.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(facts["std_of_channels"], steps.std(axis=0), rtol=1e-5)


def test_numbers_keep_their_rows_and_missing_ones_are_nan(caches: Caches, tmp_path: Path) -> None:
    expected = [float(row["value"]) for row in table("numbers", "val", tmp_path)]
    assert caches("numbers").values("val").tolist() == expected
    assert np.isnan(caches("signals").values("val")).all()


def test_other_media_are_refused_by_name(caches: Caches) -> None:
    for read in (lambda c: c.audio(0), lambda c: c.features(0), lambda c: c.images):
        with pytest.raises(DataError, match=r"this dataset has no (audio|features|images)"):
            read(caches("text"))


def test_a_dataset_may_have_parts_with_labels_and_parts_with_numbers(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    rows: list[Row] = []
    for at in range(4):
        rows.append({"part": "mood", "features": array(at), "label": ("low", "high")[at % 2]})
        rows.append({"part": "age", "features": array(at), "value": str(at)})
    write_rows(tmp_path / "clean", "train", [{"sample_id": str(i)} | r for i, r in enumerate(rows)])
    cache = make_cache(tmp_path, {})
    assert cache.facts["parts"] == ["mood", "age"]
    assert cache.rows("train")["part"].tolist() == [0, 1] * 4


def long_questions(tmp_path: Path, limit: int) -> tuple[TrainingCache, list[Row]]:
    """40 rows, every eighth of which has a question that fills the limit alone."""
    draw = random.Random(0)
    rows = []
    for at in range(40):
        words = 30 if at % 8 == 3 else 2
        question = " ".join(sentence(draw, 1) for _ in range(words))
        rows.append({"sample_id": f"q{at}", "question": question, "answer": sentence(draw, 6)})
    (tmp_path / "clean").mkdir()
    for split, part in (("train", rows[:32]), ("val", rows[32:])):
        write_rows(tmp_path / "clean", split, part)
    tokenize = {"tokenizer": {"kind": "char"}, "max_tokens": limit}
    return make_cache(tmp_path, tokenize), rows


def test_questions_that_leave_no_label_are_listed_and_the_rest_is_learned(
    tmp_path: Path, make_job: Callable[..., TrainingJob]
) -> None:
    """What truncation takes is on the record, and nothing else is missing."""
    limit = 41
    cache, rows = long_questions(tmp_path, limit)
    with (cache.folder / "lost_labels.csv").open() as file:
        listed = {
            (row["split"], row["sample_id"]): int(row["tokens"]) for row in csv.DictReader(file)
        }
    lost = {r["sample_id"]: len(r["question"]) + 1 for r in rows if len(r["question"]) + 1 >= limit}
    assert len(lost) == 5
    assert {sample: tokens for (_, sample), tokens in listed.items()} == lost
    assert cache.facts["lost_labels"] == {"train": 4, "val": 1}
    assert cache.facts["rows"] == {"train": 28, "val": 7}
    kept = [r for r in rows[:32] if r["sample_id"] not in lost]
    cut = [r for r in kept if len(r["question"]) + len(r["answer"]) + 2 > limit]
    assert cache.facts["cut_answers"]["train"] == len(cut) > 0
    job = make_job("causal_lm_answers", cache=cache, task={"block_size": limit - 1})
    assert len(job.train) == len(kept)
    loader = Loader(job.train, job.task.collate, LoaderConfig(batch_size=5), seed=0, shuffle=True)
    labelled = 0
    for batch in loader.batches(0):
        assert (batch["labels"] != IGNORE_INDEX).any(dim=1).all()
        labelled += int((batch["labels"] != IGNORE_INDEX).sum())
        assert job.task.loss(job.model, batch).total.isfinite()
    expected = [min(len(r["answer"]) + 1, limit - len(r["question"]) - 1) for r in kept]
    assert labelled == sum(expected)


def test_questions_that_a_smaller_block_leaves_out_are_said(
    tmp_path: Path, make_job: Callable[..., TrainingJob], caplog: pytest.LogCaptureFixture
) -> None:
    cache, _ = long_questions(tmp_path, 1000)
    assert not (cache.folder / "lost_labels.csv").exists()
    job = make_job("causal_lm_answers", cache=cache, task={"block_size": 40})
    assert len(job.train) == 28
    assert "4 of 32 questions of split train fill task.block_size = 40" in caplog.text
    with pytest.raises(DataError, match="no row with question and answer"):
        make_job("causal_lm_answers", cache=cache, task={"block_size": 2})


def test_a_row_may_have_a_label_and_no_medium(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    rows: list[dict[str, Any]] = [
        {"sample_id": "a", "image": picture(0), "label": "x"},
        {"sample_id": "b", "image": None, "label": "y"},
    ]
    write_rows(tmp_path / "clean", "train", rows)
    cache = make_cache(tmp_path, {})
    assert cache.rows("train")["image"].tolist() == [0, -1]
    assert cache.rows("train")["label"].tolist() == [0, 1]


MEDIA = {
    "image": {"image": {"sizes": [{"height": 8, "width": 8, "images": 1}]}},
    "audio": {"audio": {"clips": 1, "mean_s": 1.0}},
    "features": {"features": {"channels": 3}},
}


def stores(folder: Path, files: ExitStack) -> Stores:
    return Stores(folder, files, limit_bytes=math.inf, shard_bytes=1)


@pytest.mark.parametrize("name", MEDIA)
def test_a_medium_that_cannot_be_decoded_is_named(tmp_path: Path, name: str) -> None:
    with ExitStack() as files:
        medium = open_media(stores(tmp_path, files), None, None, "rgb", RATE, MEDIA[name])[name]
        with pytest.raises(DataError, match=r"SHA-256 f2f25635fefda19b.* set validate\.level"):
            medium.decode(b"not a medium")


def test_an_array_of_other_channels_is_refused(tmp_path: Path) -> None:
    with ExitStack() as files:
        shapes = {"features": {"channels": 4}}
        opened = open_media(stores(tmp_path, files), None, None, "rgb", RATE, shapes)
        with pytest.raises(DataError, match=r"cannot be decoded .*3 channels"):
            opened["features"].decode(array(0))


def test_the_tiny_datasets_have_settings_that_exist() -> None:
    assert set(TOKENIZE) <= set(DATA)
