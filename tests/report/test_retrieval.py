from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from plumbline.errors import CheckpointError
from plumbline.files import write_digests
from plumbline.report.retrieval import text_searches
from plumbline.report.samples import Samples
from tests.report.conftest import _ipc


def write(folder: Path, media: np.ndarray, texts: np.ndarray) -> None:
    """Media 10, 11, ... and texts 0, 1, ..., each of which is the caption of one medium."""
    folder.mkdir()
    arrays = {
        "media": np.arange(len(media)) + 10,
        "texts": np.arange(len(texts)),
        "media_embeddings": media,
        "text_embeddings": texts,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    write_digests(folder)


def samples(folder: Path, captions: int, media: int) -> Samples:
    cache = folder / "cache"
    cache.mkdir()
    numbers = list(range(captions))
    rows = {
        "sample_id": [f"s{at}" for at in numbers],
        "image": pa.array([10 + at % media for at in numbers], pa.int32()),
        "caption": pa.array(numbers, pa.int32()),
    }
    (cache / "test.arrow").write_bytes(_ipc(pa.table(rows)))
    (cache / "texts.arrow").write_bytes(_ipc(pa.table({"text": [f"text {at}" for at in numbers]})))
    (cache / "cache.json").write_text("{}", encoding="utf-8")
    return Samples(cache, "test")


def test_media_come_by_their_cosine_and_those_of_the_text_are_marked(tmp_path: Path) -> None:
    angles = np.linspace(0, 1, 8)
    media = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    write(tmp_path / "evaluation", media, media[[7, 2]])
    found = text_searches(tmp_path / "evaluation", samples(tmp_path, 2, 8), "image", 8)
    assert [search.text for search in found] == ["text 0", "text 1"]
    # Text 0 lies on medium 17 and belongs to 10, the farthest; text 1 on 12 and belongs to 11.
    assert [one.subject.image for one in found[0].found] == [17, 16, 15, 14, 13, 12]
    assert found[0].rank == 8
    assert not any(one.right for one in found[0].found)
    assert found[1].found[0].score == pytest.approx(1.0)
    assert [one.subject.image for one in found[1].found if one.right] == [11]
    assert found[1].rank == [one.subject.image for one in found[1].found].index(11) + 1


def test_texts_are_spread_over_the_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path / "evaluation", rng.normal(size=(5, 4)), rng.normal(size=(101, 4)))
    found = text_searches(tmp_path / "evaluation", samples(tmp_path, 101, 5), "image", 3)
    assert [search.text for search in found] == ["text 0", "text 50", "text 100"]


def test_an_evaluation_without_embeddings_has_no_searches(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/examples.json").write_text("[]", encoding="utf-8")
    write_digests(tmp_path / "evaluation")
    assert text_searches(tmp_path / "evaluation", samples(tmp_path, 1, 1), "image", 3) == []


def test_embeddings_of_another_number_are_named(tmp_path: Path) -> None:
    write(tmp_path / "evaluation", np.ones((3, 2)), np.ones((2, 2)))
    np.save(tmp_path / "evaluation/media.npy", np.arange(4))
    with pytest.raises(CheckpointError, match=r"embeddings .* do not fit"):
        text_searches(tmp_path / "evaluation", samples(tmp_path, 2, 3), "image", 3)
