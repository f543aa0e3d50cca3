"""Data with planted faults is described with the figures that were planted, in any batches."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from plumbline.data.arrays import encode_array
from plumbline.data.turns import dump_turns
from plumbline.shapes import detect
from plumbline.shapes.detect import ShapesConfig, look_at
from plumbline.shapes.distributed import Distributions
from plumbline.shapes.remarks import describe_distributions

Views = dict[str, list[str]]


def write(clean: Path, split: str, **columns: list[Any]) -> None:
    media = ("image", "audio", "features")
    table = {
        name: pa.array(cells, pa.binary() if name in media else pa.string())
        for name, cells in columns.items()
    }
    pq.write_table(pa.table(table), clean / f"{split}.parquet")


def look(clean: Path, **views: list[str]) -> Distributions:
    return look_at(clean, ShapesConfig(), views).distributions


def said(found: Distributions) -> list[str]:
    return list(describe_distributions(found))


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0, **save: Any) -> bytes:
    bands = len(Image.new(mode, (1, 1)).getbands())
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (height, width, bands), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels, mode)
    image.save(buffer, **{"format": "PNG", **save})
    return buffer.getvalue()


def clip(seconds: float, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate))
    soundfile.write(buffer, samples, rate, format="WAV")
    return buffer.getvalue()


def test_images_have_sides_aspects_and_modes_each_distinct_one_once(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = picture(20, 40)
    images = [
        *(wide, wide, picture(30, 30, "L"), picture(50, 25, "RGBA")),
        *(picture(10, 20, format="JPEG", exif=turned), None),
    ]
    write(tmp_path, "train", image=images, caption=["a", "b", "c", "d", "e", "f"])
    write(tmp_path, "val", image=[wide], caption=["g"])
    views = look(tmp_path, pair=["image", "caption"])["views"]["pair"]
    assert {split: view["rows"] for split, view in views.items()} == {"train": 5, "val": 1}
    image = views["train"]["columns"]["image"]
    assert image["distinct"] == 4
    assert image["modes"] == {"JPEG RGB": 1, "PNG L": 1, "PNG RGB": 1, "PNG RGBA": 1}
    assert (image["width"]["min"], image["width"]["max"]) == (10, 40)
    assert (image["height"]["p50"], image["short_side"]["p50"]) == (20, 20)
    assert (image["aspect"]["min"], image["aspect"]["p50"], image["aspect"]["max"]) == (0.5, 0.5, 2)


def test_a_view_counts_the_rows_that_have_all_of_its_columns(tmp_path: Path) -> None:
    write(
        tmp_path,
        "train",
        image=[picture(8, 8), picture(8, 9), picture(8, 10)],
        caption=["abc", None, "abcdef"],
        question=["q", "qq", None],
        answer=["a", "a", None],
    )
    found = look(tmp_path, caption=["image", "caption"], qa=["image", "question", "answer"])
    caption, qa = found["views"]["caption"]["train"], found["views"]["qa"]["train"]
    assert (caption["rows"], qa["rows"]) == (2, 2)
    assert caption["columns"]["image"]["width"]["max"] == 10
    assert qa["columns"]["image"]["width"]["max"] == 9
    assert caption["columns"]["caption"]["chars"]["mean"] == 4.5
    assert set(qa["columns"]) == {"image", "question", "answer"}


def test_clips_have_their_seconds_and_rates(tmp_path: Path) -> None:
    clips = [clip(0.5), clip(1.25, 16_000), clip(2.0)]
    write(tmp_path, "train", audio=clips, label=["a", "b", "a"])
    audio = look(tmp_path, hear=["audio", "label"])["views"]["hear"]["train"]["columns"]["audio"]
    assert (audio["distinct"], audio["sample_rates"]) == (3, {"8000": 2, "16000": 1})
    seconds = audio["seconds"]
    assert (seconds["min"], seconds["p50"], seconds["max"], seconds["mean"]) == (0.5, 1.25, 2, 1.25)


def test_constant_arrays_and_dead_channels_are_found(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.normal(0, 1, (10 + at, 3)) for at in range(30)]
    for array in arrays:
        array[:, 1] = 2.0
    arrays[4][:], arrays[9][:] = 2.0, 2.0
    arrays[9][:, 0] = 1.0
    write(
        tmp_path,
        "train",
        features=[encode_array(array) for array in arrays],
        label=["a", "b"] * 15,
    )
    found = look(tmp_path, feel=["features", "label"])
    features = found["views"]["feel"]["train"]["columns"]["features"]
    assert (features["constant"], features["distinct"]) == (2, 30)
    assert (features["steps"]["min"], features["steps"]["max"]) == (10, 39)
    assert found["constant_channels"] == [1]
    assert said(found) == [
        "channels of features that never change in training, counted from 0: 1",
        "features: 2 of 30 arrays never change",
    ]


def test_a_planted_imbalance_is_said_with_its_classes(tmp_path: Path) -> None:
    labels = ["cat"] * 500 + ["dog"] * 40 + ["sunflower"] * 5 + ["sunflowers"] * 12
    write(tmp_path, "train", text=[f"t{at}" for at in range(len(labels))], label=labels)
    write(tmp_path, "val", text=["v"], label=["cat"])
    found = look(tmp_path, classify=["text", "label"])
    assert found["labels"][""] == {
        "classes": 4,
        "rows": 557,
        "most": ("cat", 500),
        "least": ("sunflower", 5),
        "imbalance": 100.0,
        "rare": 1,
        "absent": {"val": 3},
        "near": [("sunflower", "sunflowers")],
    }
    assert said(found) == [
        "labels are imbalanced: 'cat' has 500 training rows, 'sunflower' 5; weigh the classes, and "
        "look at macro F1 beside accuracy",
        "1 of 4 classes have fewer than 10 training rows",
        "3 of 4 classes have no row in val",
    ]


def test_even_classes_are_no_matter(tmp_path: Path) -> None:
    write(tmp_path, "train", text=[f"t{at}" for at in range(40)], label=["a", "b"] * 20)
    assert said(look(tmp_path, classify=["text", "label"])) == []


def test_a_long_tail_and_a_text_that_half_of_the_rows_have_are_said(tmp_path: Path) -> None:
    texts = ["the same"] * 100 + [f"text {at}" for at in range(99)] + ["x" * 5000]
    write(tmp_path, "train", text=texts)
    found = look(tmp_path, language=["text"])
    text = found["views"]["language"]["train"]["columns"]["text"]
    assert text["most_frequent"] == {"text": "the same", "rows": 100}
    assert (text["distinct"], text["chars"]["p99"], text["chars"]["max"]) == (101, 8, 5000)
    assert said(found) == [
        "text: the longest has 5,000 characters, 99 of 100 at most 8: a batch with it takes 625 "
        "times the memory",
        "text: 50 % of the training rows have the same text, 'the same'",
    ]


def test_oblong_images_are_said(tmp_path: Path) -> None:
    images = [picture(10, 50 if at < 5 else 11, seed=at) for at in range(50)]
    write(tmp_path, "train", image=images, caption=[f"c{at}" for at in range(50)])
    assert said(look(tmp_path, caption=["image", "caption"])) == [
        "image: one in twenty is 5 times as wide as tall or more, which a square stretches or cuts "
        "(tokenize.image_size, image_resize)"
    ]


def test_targets_are_counted_exactly_by_part_and_split(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(-3, 2, 300)
    numbers[:12] = 1e6
    texts = [f"t{at}" for at in range(300)]
    write(tmp_path, "train", text=texts, value=[repr(n) for n in numbers.tolist()])
    write(tmp_path, "test", text=["a", "b"], value=["-0.0", "4"])
    found = look(tmp_path, measure=["text", "value"])
    values = found["values"][""]
    assert values["train"]["mean"] == pytest.approx(numbers.mean(), rel=1e-8)
    assert values["train"]["std"] == pytest.approx(numbers.std(), rel=1e-8)
    assert values["train"]["p50"] == pytest.approx(np.sort(numbers)[149], rel=1e-8)
    assert values["train"]["outliers"] == 12
    assert (values["test"]["zeros"], values["test"]["max"], values["test"]["count"]) == (1, 4, 2)
    (line,) = said(found)
    assert line.startswith("values: 12 of 300 lie far out, beyond three times")


def test_targets_that_hardly_change_are_said(tmp_path: Path) -> None:
    texts = [f"t{at}" for at in range(30)]
    write(tmp_path, "train", text=texts, value=["7"] * 30)
    (line,) = said(look(tmp_path, measure=["text", "value"]))
    assert line == "values are 7 in all 30 training rows"
    write(tmp_path, "train", text=texts, value=["0"] * 20 + ["1"] * 10)
    (line,) = said(look(tmp_path, measure=["text", "value"]))
    assert line == "values are 0 in 67 % of the training rows"


def test_conversations_have_turns_and_what_they_say(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    longer = [*talk, {"role": "user", "content": "So"}, {"role": "assistant", "content": "Yes"}]
    write(tmp_path, "train", turns=[dump_turns(talk), dump_turns(longer)])  # type: ignore[arg-type]
    turns = look(tmp_path, chat=["turns"])["views"]["chat"]["train"]["columns"]["turns"]
    assert (turns["chars"]["min"], turns["chars"]["max"]) == (7, 12)
    assert (turns["turns"]["min"], turns["turns"]["max"]) == (2, 4)


def test_batches_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    images = [picture(8 + at % 5, 8 + at % 3, seed=at // 2) for at in range(60)]
    write(
        tmp_path,
        "train",
        image=images,
        caption=[f"c{at % 7}" * (at % 5 + 1) for at in range(60)],
        value=[repr(value) for value in draw.normal(0, 1, 60).tolist()],
        label=["ab"[at % 2] for at in range(60)],
    )
    views: Views = {"a": ["image", "caption"], "b": ["image", "value"]}
    whole = look(tmp_path, **views)
    read = detect.iter_table

    def by_three(file: Path, columns: list[str]) -> Any:
        for batch in read(file, columns):
            yield from (batch.slice(start, 3) for start in range(0, len(batch), 3))

    monkeypatch.setattr(detect, "iter_table", by_three)
    assert look(tmp_path, **views) == whole


def test_what_the_data_says_of_settings_comes_with_its_reason(tmp_path: Path) -> None:
    images = [picture(100 + at % 50, 180, seed=at) for at in range(100)]
    write(tmp_path, "train", image=images, label=["a"] * 95 + ["b"] * 5)
    proposed = {one["what"]: one for one in look(tmp_path, see=["image", "label"])["proposals"]}
    assert {what: one["value"] for what, one in proposed.items()} == {
        "image size": [96, 96],
        "batch size": 16,
        "class weights": "balanced",
    }
    assert "124 pixels (of nine in ten 102 to 147)" in proposed["image size"]["reason"]
    assert "'a' has 95 training rows, 'b' 5, 19 times fewer" in proposed["class weights"]["reason"]
