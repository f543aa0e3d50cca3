"""Tokens of rows are those of the cache, and media that say nothing are told with their row."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from plumbline.data.turns import dump_turns
from plumbline.files import write_digests
from plumbline.loading.cache_reader import TrainingCache
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.cache_spread import CacheSpread, describe_constant
from plumbline.tokenization.settings import TokenizeConfig

MEDIA = ("image", "audio", "features")


def spread_of(folder: Path, config: TokenizeConfig, **splits: dict[str, list[Any]]) -> CacheSpread:
    clean, out = folder / "clean", folder / "out"
    clean.mkdir()
    out.mkdir()
    for split, columns in splits.items():
        ids = [f"{split}-{at}" for at in range(len(next(iter(columns.values()))))]
        table = {"sample_id": pa.array(ids)} | {
            name: pa.array(cells, pa.binary() if name in MEDIA else pa.string())
            for name, cells in columns.items()
        }
        pq.write_table(pa.table(table), clean / f"{split}.parquet")
    shapes = detect_shapes(clean, ShapesConfig())
    found = build_cache(clean, out, config, shapes)
    write_digests(out)
    return found


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV")
    return buffer.getvalue()


def test_tokens_are_those_of_the_rows_of_the_cache(tmp_path: Path) -> None:
    questions = [f"what is number {at % 9} of {at}?" for at in range(50)]
    answers = ["it is " + "very " * (at % 4) + "small" for at in range(50)]
    captions = [None if at % 2 else f"caption {at}" for at in range(50)]
    columns = {"question": questions, "answer": answers, "caption": captions}
    found = spread_of(tmp_path, TokenizeConfig(), train=columns, val={**columns})
    cache = TrainingCache(tmp_path / "out")
    rows = cache.rows("train")
    tokens = {
        name: [len(cache.ids(int(number))) for number in rows[name] if number >= 0]
        for name in columns
    }
    tokens["question and answer"] = [
        q + a for q, a in zip(tokens["question"], tokens["answer"], strict=True)
    ]
    assert set(found["tokens"]["train"]) == set(tokens)
    for name, expected in tokens.items():
        spread = found["tokens"]["train"][name]
        assert (spread["count"], spread["min"], spread["max"]) == (
            *(len(expected), min(expected), max(expected)),
        )
        assert spread["p50"] == np.percentile(expected, 50, method="inverted_cdf")
        assert spread["mean"] == pytest.approx(np.mean(expected))
    assert found["tokens"]["val"] == found["tokens"]["train"]
    proposed = {one["what"]: one["value"] for one in found["proposals"]}
    longest = max(tokens["question and answer"]) + 2
    assert proposed["context length of question and answer"] == 32 * -(-longest // 32)
    assert set(proposed) == {
        "context length of question and answer",
        "context length of caption",
    }


def test_rows_that_are_left_out_count_for_the_tokens(tmp_path: Path) -> None:
    """Else a limit that is too low would look as if it fitted."""
    columns = {"question": ["short", "word " * 40], "answer": ["a", "b"]}
    found = spread_of(tmp_path, TokenizeConfig(max_tokens=12), train=columns)
    assert found["tokens"]["train"]["question"]["count"] == 2
    assert found["tokens"]["train"]["question"]["max"] > 12


def test_conversations_have_the_tokens_of_their_template(tmp_path: Path) -> None:
    talks = [
        dump_turns(
            [{"role": "user", "content": "Hi " * at}, {"role": "assistant", "content": "Hello"}]
        )
        for at in range(1, 9)
    ]
    found = spread_of(tmp_path, TokenizeConfig(), train={"turns": [*talks, talks[0]]})
    tokens = found["tokens"]["train"]["turns"]
    ids = pa.ipc.open_file(tmp_path / "out/turns.arrow").read_all()["ids"].to_pylist()
    lengths = [*map(len, ids), len(ids[0])]
    assert (tokens["count"], tokens["max"], tokens["mean"]) == (
        *(9, max(lengths), pytest.approx(sum(lengths) / 9)),
    )


def test_images_of_one_colour_are_told_by_split_with_their_first_row(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    black, red = np.zeros((8, 8, 3)), np.zeros((8, 8, 3))
    red[:, :, 0] = 255
    almost = black.copy()
    almost[3, 3] = 1
    good = [png(draw.integers(0, 256, (8, 8, 3))) for _ in range(4)]
    train = [good[0], png(black), png(almost), png(red), png(black)]
    found = spread_of(
        tmp_path,
        TokenizeConfig(),
        train={"image": train, "caption": list("abcde")},
        val={"image": [good[1], png(red + 0), png(black + 7)], "caption": list("abc")},
    )
    assert found["constant"] == {
        "image": {
            "train": {"media": 2, "first": "train-1"},
            "val": {"media": 1, "first": "val-2"},
        }
    }
    assert list(describe_constant(found)) == [
        f"images of one colour in {split}; nothing can be learned of them"
        for split in ("train: 2, the first in row train-1", "val: 1, the first in row val-2")
    ]


def test_silent_clips_are_told_and_quiet_ones_are_not(tmp_path: Path) -> None:
    tone = np.sin(np.arange(4000) / 5)
    clips = [0.3 * tone, np.zeros(4000), np.full(4000, 0.25), 0.001 * tone]
    columns = {"audio": [wav(samples) for samples in clips], "caption": list("abcd")}
    found = spread_of(tmp_path, TokenizeConfig(), train=columns)
    assert found["constant"] == {"audio": {"train": {"media": 2, "first": "train-1"}}}
