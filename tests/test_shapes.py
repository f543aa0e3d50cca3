"""A dataset is described from its headers and texts, image by distinct image."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from plumbline.errors import DataError
from plumbline.shapes.detect import ShapesConfig, detect_shapes


def picture(height: int, width: int, seed: int = 0, orientation: int = 1) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, "JPEG" if orientation > 1 else "PNG", exif=exif)
    return buffer.getvalue()


def write_split(clean: Path, split: str, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), clean / f"{split}.parquet")


def test_the_tiny_scenes_are_described_as_they_were_made(scenes_clean: Path) -> None:
    shapes = detect_shapes(scenes_clean, ShapesConfig())
    assert shapes["rows"] == {"train": 24 * 7, "val": 8 * 7, "test": 8 * 7}
    assert shapes["image"] == {"sizes": [{"height": 16, "width": 16, "images": 40}]}
    table = pq.read_table(scenes_clean / "train.parquet")
    answers = [a for a in table["answer"].to_pylist() if a]
    counted = shapes["answers"]
    assert counted["distinct"] == len(set(answers))
    assert counted["most_frequent"] == {a: answers.count(a) for a in set(answers)}
    assert list(counted["most_frequent"].values()) == sorted(
        counted["most_frequent"].values(), reverse=True
    )


def test_sizes_count_distinct_images_after_orientation(tmp_path: Path) -> None:
    wide, tall, turned = picture(4, 6), picture(8, 4), picture(4, 6, orientation=6)
    other = picture(4, 6, seed=1)
    images = [wide, wide, tall, None, other]
    write_split(tmp_path, "train", {"image": pa.array(images, pa.binary())})
    write_split(tmp_path, "val", {"image": pa.array([wide, turned], pa.binary())})
    assert detect_shapes(tmp_path, ShapesConfig())["image"]["sizes"] == [
        {"height": 4, "width": 6, "images": 2},
        {"height": 6, "width": 4, "images": 1},
        {"height": 8, "width": 4, "images": 1},
    ]


def test_text_lengths_are_in_characters_and_nulls_do_not_count(tmp_path: Path) -> None:
    questions = pa.nulls(3, pa.string())
    write_split(
        tmp_path, "train", {"caption": ["\u00e9\u00e9", None, "abcd"], "question": questions}
    )
    assert detect_shapes(tmp_path, ShapesConfig()) == {
        "rows": {"train": 3},
        "texts": {"caption": {"rows": 2, "longest_chars": 4, "mean_chars": 3.0}},
    }


def test_only_answers_of_the_training_split_are_listed_up_to_the_limit(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"answer": ["b", "a", "a", "c", "b", "a"]})
    write_split(tmp_path, "test", {"answer": ["z"]})
    answers = detect_shapes(tmp_path, ShapesConfig(max_listed_answers=2))["answers"]
    assert answers == {"distinct": 3, "most_frequent": {"a": 3, "b": 2}}


def test_too_few_training_rows_are_refused_with_where_to_look(tmp_path: Path) -> None:
    clean = tmp_path / "scenes"
    clean.mkdir()
    with pytest.raises(DataError, match=r"0 training rows.*quarantine/scenes/report\.json"):
        detect_shapes(clean, ShapesConfig())
    write_split(clean, "train", {"caption": ["a"]})
    with pytest.raises(DataError, match="1 training rows, at least 2 are needed"):
        detect_shapes(clean, ShapesConfig())
    assert detect_shapes(clean, ShapesConfig(min_train_rows=1))["rows"] == {"train": 1}
