"""The cache holds every distinct value once, and the same bytes each time it is built."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tokenizers import processors

from plumbline.data import parquet
from plumbline.errors import DataError
from plumbline.files import digest_of, read_json, sha256_file, write_digests
from plumbline.loading.cache_reader import TrainingCache
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.tokenization import computing
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.tokenizer import TokenizerConfig, load_tokenizer, train_tokenizer
from plumbline.weights.settings import NOWHERE
from tests.checkpoints import record_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def picture(height: int, width: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def clean_folder(folder: Path, **splits: dict[str, Any]) -> Path:
    clean = folder / "clean"
    clean.mkdir()
    for split, columns in splits.items():
        pq.write_table(pa.table(columns), clean / f"{split}.parquet")
    return clean


def cache_of(
    clean: Path, config: TokenizeConfig | None = None, weights: Path = Path(NOWHERE)
) -> TrainingCache:
    out = clean.parent / "cache"
    out.mkdir()
    shapes = detect_shapes(clean, ShapesConfig())
    build_cache(clean, out, config or TokenizeConfig(), shapes, weights)
    write_digests(out)
    return TrainingCache(out)


def test_distinct_values_are_numbered_once_across_columns_and_splits(tmp_path: Path) -> None:
    one, two = picture(4, 6, 0), picture(4, 6, 1)
    train = {
        "sample_id": ["a", "b", "c"],
        "image": [one, two, one],
        "caption": ["red", "blue", None],
        "question": [None, None, "what?"],
        "answer": [None, None, "red"],
    }
    none = pa.nulls(1, pa.string())
    val = {"sample_id": ["d"], "image": [two], "caption": ["blue"]}
    val |= {"question": none, "answer": none}
    cache = cache_of(clean_folder(tmp_path, train=train, val=val))
    assert cache.facts["images"] == 2
    assert cache.facts["texts"] == 3
    assert cache.facts["image_shape"] == [4, 6, 3]
    assert cache.facts["rows"] == {"train": 3, "val": 1}
    rows = cache.rows("train")
    assert rows["image"].tolist() == [0, 1, 0]
    assert rows["answer"].tolist() == [-1, -1, rows["caption"][0]]
    assert cache.rows("val")["question"].tolist() == [-1]
    for number, data in enumerate((one, two)):
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(cache.images[number], expected)


def test_texts_are_stored_as_they_were_uncut_and_without_frame(tmp_path: Path) -> None:
    texts = ["<eos>", "long " * 300, "caf\u00e9", " x "]
    ids = ["1", "2", "3", "4"]
    cache = cache_of(clean_folder(tmp_path, train={"sample_id": ids, "caption": texts}))
    tokenizer = load_tokenizer(cache.folder)
    assert [cache.text(n) for n in range(4)] == texts
    assert [tokenizer.decode(cache.ids(n).tolist()) for n in range(4)] == texts
    assert cache.facts["longest_text_tokens"] == max(len(cache.ids(n)) for n in range(4))
    with pytest.raises(DataError, match="has no images"):
        _ = cache.images


def test_an_image_column_without_any_image_is_text_alone(tmp_path: Path) -> None:
    train = {
        "sample_id": ["a", "b"],
        "image": pa.nulls(2, pa.binary()),
        "caption": ["x", "y"],
    }
    cache = cache_of(clean_folder(tmp_path, train=train))
    assert cache.rows("train")["image"].tolist() == [-1, -1]
    assert cache.by_medium("train", "image") == []


def test_rows_without_image_are_in_no_group(tmp_path: Path) -> None:
    train = {
        "sample_id": list("abcd"),
        "image": [None, picture(4, 4, 1), picture(4, 4, 2), picture(4, 4, 1)],
        "caption": ["w", "x", "y", "z"],
        "question": [None, "q", None, None],
        "answer": [None, None, "a", None],
    }
    cache = cache_of(clean_folder(tmp_path, train=train))
    groups = cache.by_medium("train", "image")
    captions = [[cache.text(int(c)) for c in group.captions] for group in groups]
    assert captions == [["x", "z"], ["y"]]
    assert [group.questions.tolist() for group in groups] == [[], []]  # each lacks its other half


def test_images_of_different_sizes_name_the_setting(tmp_path: Path) -> None:
    images = [picture(4, 6, 0), picture(4, 6, 1), picture(8, 6)]
    train = {"sample_id": list("abc"), "image": images, "caption": list("xyz")}
    clean = clean_folder(tmp_path, train=train)
    with pytest.raises(DataError, match=r"4x6 \(2\), 8x6 \(1\); set tokenize\.image_size"):
        cache_of(clean)


def test_a_size_that_is_set_holds_for_all_images(tmp_path: Path) -> None:
    images = [picture(4, 6), picture(8, 6)]
    train = {"sample_id": list("ab"), "image": images, "caption": list("xy")}
    cache = cache_of(clean_folder(tmp_path, train=train), TokenizeConfig(image_size=[5, 7]))
    resized = Image.open(io.BytesIO(images[1])).resize((7, 5), Image.Resampling.BICUBIC)
    assert cache.images.shape == (2, 5, 7, 3)
    assert np.array_equal(cache.images[1], np.asarray(resized))


def test_a_tokenizer_can_come_from_a_folder(
    scenes_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"sample_id": ["a", "b"], "caption": ["a red circle", "nothing"]}
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(scenes_cache / "tokenizer.json")
    config = TokenizeConfig(tokenizer=TokenizerConfig(pretrained="theirs"))
    cache = cache_of(clean_folder(tmp_path, train=train), config, weights)
    encoded = load_tokenizer(scenes_cache).encode("a red circle", add_special_tokens=False)
    assert cache.ids(0).tolist() == encoded.ids
    assert cache.facts["vocab_size"] == read_json(scenes_cache / "cache.json")["vocab_size"]


def test_tokens_that_a_checkpoint_puts_around_texts_are_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a red circle", "nothing"]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=300))
    bare = [tokenizer.encode(text).ids for text in texts]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert tokenizer.encode(texts[0]).ids == [1, *bare[0], 2]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    train = {"sample_id": ["a", "b"], "caption": texts}
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(folder)
    config = TokenizeConfig(tokenizer=TokenizerConfig(pretrained="theirs"))
    cache = cache_of(clean_folder(tmp_path, train=train), config, weights)
    assert [cache.ids(number).tolist() for number in range(2)] == bare


@pytest.mark.parametrize(
    ("limit", "lost", "cut"),
    [(5, {"train": 1}, {"train": 1}), (6, {}, {"train": 2}), (7, {}, {"train": 1}), (8, {}, {})],
)
def test_what_the_limit_on_tokens_takes_is_counted_to_the_token(
    limit: int, lost: dict[str, int], cut: dict[str, int], tmp_path: Path
) -> None:
    # A question of four tokens and one of three, each with its answer and an end to both: 7 and 8.
    train = {"sample_id": ["a", "b"], "question": ["abba", "bab"], "answer": ["a", "aab"]}
    tokenizer = TokenizerConfig(kind="char", min_frequency=1)
    config = TokenizeConfig(tokenizer=tokenizer, max_tokens=limit)
    cache = cache_of(clean_folder(tmp_path, train=train), config)
    assert cache.facts["lost_labels"] == lost
    assert {split: rows for split, rows in cache.facts["cut_answers"].items() if rows} == cut
    csv = cache.folder / "lost_labels.csv"
    assert csv.is_file() == bool(lost)
    if lost:
        assert csv.read_text(encoding="utf-8").splitlines()[1:] == ['"train","a",5']


def test_data_without_training_text_is_refused(tmp_path: Path) -> None:
    train = {"sample_id": ["a", "b"], "caption": pa.nulls(2, pa.string())}
    val = {"sample_id": ["c"], "caption": ["x"]}
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        cache_of(clean_folder(tmp_path, train=train, val=val))


BUILD = """
import json, sys
from pathlib import Path
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.tokenization import cache as token_cache
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
clean, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir()
build_cache(clean, out, TokenizeConfig(), detect_shapes(clean, ShapesConfig()))
"""


def test_a_rebuild_is_the_same_bytes_whatever_the_hash_seed(
    scenes_clean: Path, tmp_path: Path
) -> None:
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", BUILD, str(scenes_clean), str(out)]
        subprocess.run(command, env=environment, check=True)
        assert not list(out.glob(".*"))
        digests.append(digest_of({p.name: sha256_file(p) for p in out.iterdir()}))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("batch_bytes", [1, 3000, 2**30])
def test_numbers_do_not_depend_on_how_rows_are_batched(
    scenes_clean: Path,
    scenes_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_bytes: int,
) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", batch_bytes)
    shutil.copytree(scenes_clean, tmp_path / "clean")
    tokenizer = TokenizerConfig(vocab_size=300)
    cache, whole = (
        cache_of(tmp_path / "clean", TokenizeConfig(tokenizer=tokenizer)),
        TrainingCache(scenes_cache),
    )
    assert cache.facts == whole.facts
    assert [cache.text(n) for n in range(whole.facts["texts"])] == [
        whole.text(n) for n in range(whole.facts["texts"])
    ]
    for split in whole.facts["rows"]:
        for name, numbers in whole.rows(split).items():
            assert np.array_equal(
                cache.rows(split)[name], numbers, equal_nan=numbers.dtype.kind == "f"
            ), name


def test_how_much_text_is_encoded_at_once_changes_no_byte(
    scenes_clean: Path, scenes_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computing, "TEXTS_BYTES", 40)
    shutil.copytree(scenes_clean, tmp_path / "clean")
    cache = cache_of(tmp_path / "clean", TokenizeConfig(tokenizer=TokenizerConfig(vocab_size=300)))
    assert read_json(cache.folder / "digests.json") == read_json(scenes_cache / "digests.json")


def test_texts_are_numbered_row_by_row(tmp_path: Path) -> None:
    train = {
        "sample_id": ["a", "b", "c"],
        "question": ["q1", None, "q2"],
        "answer": ["yes", None, "q1"],
        "caption": ["one", "yes", None],
    }
    cache = cache_of(clean_folder(tmp_path, train=train))
    texts = [cache.text(number) for number in range(cache.facts["texts"])]
    assert texts == ["one", "q1", "yes", "q2"]


def test_without_a_cleaned_dataset_there_is_no_empty_cache(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "clean/scenes").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"clean/scenes: no cleaned dataset; run dvc repro validate"
    ):
        build_cache(tmp_path / "clean/scenes", out, TokenizeConfig(), {})
    assert not list(out.iterdir())
