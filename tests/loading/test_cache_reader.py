"""A training cache gives back what the cleaned dataset holds, and notices damage."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from plumbline.data.images import decode_image
from plumbline.errors import CheckpointError, DamagedInputError, DataError
from plumbline.loading import digest_check
from plumbline.loading.cache_reader import TrainingCache, group_samples
from plumbline.tokenization.tokenizer import load_tokenizer
from tests.tiny import Row, make_cache, picture, write_rows


@pytest.fixture(scope="module")
def cache(scenes_cache: Path) -> TrainingCache:
    return TrainingCache(scenes_cache)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_row_comes_back_with_its_texts_and_pixels(
    cache: TrainingCache, scenes_clean: Path, split: str
) -> None:
    table = pq.read_table(scenes_clean / f"{split}.parquet")
    rows = cache.rows(split)
    assert cache.sample_ids(split).to_pylist() == table["sample_id"].to_pylist()
    for name in ("caption", "question", "answer"):
        found = [None if n < 0 else cache.text(int(n)) for n in rows[name]]
        assert found == table[name].to_pylist()
    for number, data in list(zip(rows["image"], table["image"].to_pylist(), strict=True))[::7]:
        assert np.array_equal(cache.images[number], np.asarray(decode_image(data)))


def test_ids_decode_to_their_text(cache: TrainingCache) -> None:
    tokenizer = load_tokenizer(cache.folder)
    for number in range(cache.facts["texts"]):
        ids = cache.ids(number)
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids.tolist()) == cache.text(number)


def test_images_are_mapped_and_read_only(cache: TrainingCache) -> None:
    assert isinstance(cache.images, np.ndarray)
    assert isinstance(cache.images.base, np.memmap)
    assert cache.images.shape == (40, 16, 16, 3)
    assert not cache.images.flags.writeable


def test_the_splits_that_have_rows_are_named(cache: TrainingCache) -> None:
    assert cache.splits == ["test", "train", "val"]
    with pytest.raises(DataError, match="no split 'dev'; there is test, train, val"):
        cache.rows("dev")


@pytest.mark.parametrize("split", ["train", "val"])
def test_rows_are_grouped_by_image_with_captions_and_answered_questions(
    cache: TrainingCache, scenes_clean: Path, split: str
) -> None:
    expected: dict[bytes, tuple[list[str], list[tuple[str, str]]]] = {}
    for row in pq.read_table(scenes_clean / f"{split}.parquet").to_pylist():
        captions, questions = expected.setdefault(row["image"], ([], []))
        if row["caption"] is not None:
            captions.append(row["caption"])
        else:
            questions.append((row["question"], row["answer"]))
    groups = cache.by_medium(split, "image")
    assert len(groups) == len(expected)
    for group, (data, (captions, questions)) in zip(groups, expected.items(), strict=True):
        assert np.array_equal(cache.images[group.number], np.asarray(decode_image(data)))
        assert [cache.text(int(c)) for c in group.captions] == captions
        pairs = [(cache.text(int(q)), cache.text(int(a))) for q, a in group.questions]
        assert pairs == questions


def test_the_nth_row_of_every_part_of_an_input_makes_its_nth_sample() -> None:
    inputs = np.array([5, -1, 2, 5, 5, 2, 5], np.int32)
    parts = np.array([0, 0, 0, 1, 0, 0, 1], np.int32)
    assert group_samples(inputs, parts).tolist() == [2, -1, 0, 2, 3, 1, 3]
    assert group_samples(np.full(3, -1, np.int32), np.zeros(3, np.int32)).tolist() == [-1] * 3


def test_a_medium_of_which_every_row_is_repeated_is_there_as_often(tmp_path: Path) -> None:
    """Every row stays in one group or another; the rarest row of a medium says how many."""

    def rows(number: int, texts: str) -> list[Row]:
        return [{"image": picture(number), "caption": text} for text in texts]

    asked = [{"image": picture(3), "question": q, "answer": a} for q, a in ("xy", "xz", "xy", "xz")]
    given = [*rows(0, "aab"), *rows(1, "cdcdc"), *rows(2, "ee"), *asked]
    # Parts that say the same of one medium are not copies of each other.
    labelled = [("p", "x"), ("q", "y"), ("p", "y"), ("q", "x")]
    given += [
        {"image": picture(4 + at // 2), "caption": "f", "part": part, "label": label}
        for at, (part, label) in enumerate(labelled)
    ]
    (tmp_path / "clean").mkdir()
    named = [{"sample_id": str(at)} | row for at, row in enumerate(given)]
    write_rows(tmp_path / "clean", "train", named)
    cache: TrainingCache = make_cache(tmp_path, {})
    found: list[tuple[int, str]] = []
    for group in cache.by_medium("train", "image"):
        texts = [cache.text(int(n)) for n in (*group.captions, *group.questions.flat)]
        found.append((group.number, "".join(texts)))
    assert found == [
        (0, "aab"),
        (1, "cdc"),
        (1, "cd"),
        (2, "e"),
        (2, "e"),
        (3, "xyxz"),
        (3, "xyxz"),
        (4, "ff"),
        (5, "ff"),
    ]


def test_one_flipped_bit_in_the_cache_is_found(scenes_cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(scenes_cache, copy)
    data = bytearray((copy / "images.bin").read_bytes())
    data[1000] ^= 4
    (copy / "images.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"images\.bin: its bytes changed"):
        TrainingCache(copy)


def test_a_large_file_is_checked_beside_what_follows(
    scenes_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(scenes_cache, copy)
    monkeypatch.setattr(digest_check, "LARGE_BYTES", 1000)
    TrainingCache(copy, confirm_later=True).confirm()
    data = bytearray((copy / "images.bin").read_bytes())
    data[1000] ^= 4
    (copy / "images.bin").write_bytes(data)
    opened = TrainingCache(copy, confirm_later=True)
    assert opened.digests == TrainingCache(scenes_cache).digests
    for _ in range(2):  # whoever asks is told
        with pytest.raises(DamagedInputError, match=r"images\.bin: its bytes changed"):
            opened.confirm()
    with pytest.raises(CheckpointError, match=r"images\.bin: its bytes changed"):
        TrainingCache(copy)
    (copy / "images.bin").unlink()
    with pytest.raises(CheckpointError, match=r"images\.bin: missing"):
        TrainingCache(copy, confirm_later=True)
    monkeypatch.setattr(digest_check, "LARGE_BYTES", 1 << 40)
    shutil.copy(scenes_cache / "images.bin", copy)
    (copy / "cache.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"cache\.json: its bytes changed"):
        TrainingCache(copy, confirm_later=True)
