"""Wherever media are decoded and texts are encoded, a cache has the same bytes."""

import io
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from plumbline.data.arrays import encode_array
from plumbline.engines.local import LocalEngine
from plumbline.files import sha256_file
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.tokenization import computing
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.computing import Chunk, Computing, cut_media, cut_texts
from plumbline.tokenization.media import open_media
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.stores import Stores
from plumbline.tokenization.tokenizer import PAD, TokenizerConfig, train_tokenizer
from tests.engines.pickling import PicklingEngine
from tests.tiny import picture


def files_of(clean: Path, out: Path, engine: Any) -> tuple[dict[str, str], Any]:
    out.mkdir()
    config = TokenizeConfig(tokenizer=TokenizerConfig(vocab_size=300), max_tokens=24)
    found = build_cache(clean, out, config, detect_shapes(clean, ShapesConfig()), engine=engine)
    return {path.name: sha256_file(path) for path in out.iterdir()}, found


@pytest.fixture
def many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "MEDIA_AT_ONCE", 3)
    monkeypatch.setattr(computing, "TEXTS_BYTES", 60)


def test_other_machines_and_processes_make_the_cache_of_one(
    scenes_clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many_chunks: None
) -> None:
    one = files_of(scenes_clean, tmp_path / "one", LocalEngine())
    engine = PicklingEngine()
    assert files_of(scenes_clean, tmp_path / "pickled", engine) == one
    assert engine.items > 20
    assert files_of(scenes_clean, tmp_path / "two", LocalEngine(2)) == one


def test_special_tokens_within_a_text_are_text_in_a_copy_as_well() -> None:
    import pickle

    tokenizer = train_tokenizer([f"a text {PAD}"], TokenizerConfig(vocab_size=300))
    here = Computing({}, tokenizer)
    there = pickle.loads(pickle.dumps(here))
    (chunk,) = cut_texts([f"one {PAD} two"])
    assert there(chunk).ids[0].tolist() == here(chunk).ids[0].tolist()
    assert tokenizer.token_to_id(PAD) not in there(chunk).ids[0]


def test_chunks_are_full_by_bytes_or_by_number() -> None:
    met = [(row, b"x" * (2**17)) for row in range(5)] + [(5, b"y")] * 40
    chunks = list(cut_media("image", met, len))
    assert [len(chunk.media) for chunk in chunks] == [2, 2, 32, 9]
    assert [row for chunk in chunks for row in chunk.rows] == [row for row, _ in met]
    assert list(cut_media("image", [], len)) == []
    assert list(cut_texts([])) == []
    assert list(cut_media("image", [(0, b"")], len)) == [Chunk((), "image", [0], [b""])]


def test_media_that_are_long_once_decoded_are_decoded_one_by_one() -> None:
    met = [(row, b"silence") for row in range(5)]
    chunks = list(cut_media("audio", met, lambda _: 3 * 2**20))
    assert [len(chunk.media) for chunk in chunks] == [2, 2, 1]
    assert [chunk.weight() for chunk in chunks] == [2 * (3 * 2**20 + 7)] * 2 + [3 * 2**20 + 7]
    assert [len(chunk.media) for chunk in cut_media("audio", met, lambda _: 2**30)] == [1] * 5


def test_what_media_are_decoded_to_is_known_before(tmp_path: Path) -> None:
    stores = Stores(tmp_path, ExitStack(), math.inf, 2**26)
    seconds = io.BytesIO()
    soundfile.write(seconds, np.linspace(-1, 1, 22_050), 44_100, format="FLAC")
    array = encode_array(np.ones((50, 3), np.float32))
    shapes: Any = {
        "image": {"sizes": [{"height": 8, "width": 6, "images": 1}]},
        "audio": {"clips": 1, "mean_s": 0.5},
        "features": {"channels": 3, "mean_of_channels": [1.0] * 3, "std_of_channels": [0.0] * 3},
    }
    files = open_media(stores, [8, 6], None, "rgb", 16_000, shapes)
    cells = {"image": picture(0, 6, 8), "audio": seconds.getvalue(), "features": array}
    for name, cell in cells.items():
        there = np.asarray(files[name].decode(cell)).nbytes
        assert there <= files[name].decoded_bytes(cell) <= 12 * there, name
