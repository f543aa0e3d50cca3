"""Tiny datasets of every kind of data, and the smallest settings of every kind of task on them."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from plumbline.data.arrays import encode_array
from plumbline.data.columns import CANONICAL
from plumbline.data.image_lists import pack_images
from plumbline.data.turns import IMAGE_MARK, Turn, dump_turns

Row = dict[str, Any]

SIZES = {"train": 24, "val": 7, "test": 9}
"""Split -> inputs of a tiny dataset."""
WORDS = ("to", "be", "or", "not", "that", "is", "the", "question", "whether", "it", "tis", "noble")
GERMAN = dict(zip(WORDS, (f"{word[::-1]}en" for word in WORDS), strict=True))
DIGITS = ("zero", "one", "two")
SPEAKERS = ("jackson", "nicolas")
RATE = 8000
"""Samples a second of the tiny clips."""


def sentence(draw: random.Random, most: int = 9) -> str:
    """Words of unequal number."""
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))


def picture(seed: int, height: int = 16, width: int = 16) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def clip(seed: int) -> bytes:
    """A WAV of a noisy tone, 40 to 160 ms long."""
    import soundfile

    draw = np.random.default_rng(seed)
    samples = int(draw.integers(RATE // 25, RATE * 4 // 25))
    tone = np.sin(np.arange(samples) * 2 * np.pi * (300 + 200 * (seed % 3)) / RATE)
    buffer = io.BytesIO()
    noisy = 0.4 * tone + 0.05 * draw.standard_normal(samples)
    soundfile.write(buffer, noisy, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def array(seed: int) -> bytes:
    """Features of 4 to 15 steps and 3 channels of unequal scale."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((int(draw.integers(4, 16)), 3)) * [1, 10, 0.1] + [0, 5, -1]
    return encode_array(values)


def _text(at: int, draw: random.Random) -> list[Row]:
    return [{"text": sentence(draw)}]


def _answers(at: int, draw: random.Random) -> list[Row]:
    return [{"question": sentence(draw, 6) + "?", "answer": sentence(draw, 3)}]


def _chats(at: int, draw: random.Random) -> list[Row]:
    turns: list[Turn] = [{"role": "system", "content": "be noble"}] if at % 3 == 0 else []
    for _ in range(1 + at % 2):
        turns.append({"role": "user", "content": sentence(draw, 3) + "?"})
        turns.append({"role": "assistant", "content": sentence(draw, 3)})
    return [{"turns": dump_turns(turns)}]


def _shown(at: int, draw: random.Random) -> list[Row]:
    """Conversations about none to three images, which others show as well."""
    turns: list[Turn] = [{"role": "system", "content": "be noble"}] if at % 3 == 0 else []
    images: list[bytes] = []
    for number in range(1 + at % 2):
        count = (at + number) % 3
        said = " ".join([sentence(draw, 1), *count * [IMAGE_MARK], sentence(draw, 1) + "?"])
        asked: Turn = {"role": "user", "content": said}
        turns.append({**asked, "images": list(range(count))} if count else asked)
        turns.append({"role": "assistant", "content": sentence(draw, 2)})
        images += [picture((at + mark) // 2) for mark in range(count)]
    row: Row = {"turns": dump_turns(turns)}
    return [{**row, "images": pack_images(images)} if images else row]


def _pairs(at: int, draw: random.Random) -> list[Row]:
    source = sentence(draw, 7)
    return [{"source": source, "target": " ".join(GERMAN[word] for word in source.split())}]


def _reviews(at: int, draw: random.Random) -> list[Row]:
    return [{"text": sentence(draw), "label": ("bad", "good")[at % 2]}]


def _pictures(at: int, draw: random.Random) -> list[Row]:
    label = DIGITS[at % 3]
    return [{"image": picture(at), "label": label, "caption": f"{label} {sentence(draw, 3)}"}]


def _clips(at: int, draw: random.Random) -> list[Row]:
    digit, sound = DIGITS[at % 3], clip(at)
    rows: list[Row] = [{"part": "digit", "audio": sound, "label": digit, "caption": f"say {digit}"}]
    if at % 4:  # of some clips nobody knows who speaks
        rows.append({"part": "speaker", "audio": sound, "label": SPEAKERS[at % 2]})
    return rows


def _signals(at: int, draw: random.Random) -> list[Row]:
    if at % 2:
        return [{"part": "pain", "features": array(at), "label": ("none", "low", "high")[at % 3]}]
    return [{"part": "stimulus", "features": array(at), "label": ("heat", "none")[at // 2 % 2]}]


def _numbers(at: int, draw: random.Random) -> list[Row]:
    rows: list[Row] = [{"part": "age", "features": array(at), "value": repr(20.0 + at)}]
    if at % 3:
        value = repr(draw.uniform(0, 1e-3))
        rows.append({"part": "dose", "features": array(at), "value": value})
    return rows


DATA: dict[str, Callable[[int, random.Random], list[Row]]] = {
    "text": _text,
    "answers": _answers,
    "chats": _chats,
    "shown": _shown,
    "pairs": _pairs,
    "reviews": _reviews,
    "pictures": _pictures,
    "gray": _pictures,
    "clips": _clips,
    "voices": _clips,
    "signals": _signals,
    "numbers": _numbers,
}
"""Dataset -> the rows about its input number `at`."""

TOKENIZE: dict[str, dict[str, Any]] = {
    "pairs": {"tokenizer": {"vocab_size": 330}},
    "reviews": {"tokenizer": {"vocab_size": 300}},
    "pictures": {"tokenizer": {"vocab_size": 300}},
    "gray": {"tokenizer": {"vocab_size": 300}, "image_mode": "gray"},
    "clips": {"tokenizer": {"kind": "char", "min_frequency": 1}, "sample_rate": RATE},
    # As checkpoints take them.
    "voices": {"tokenizer": {"kind": "char", "min_frequency": 1}, "sample_rate": 16_000},
}
"""Dataset -> section `tokenize`, where it is not a tokenizer of characters."""


def write_clean(clean: Path, name: str) -> None:
    """Write the cleaned tables of a tiny dataset into the empty folder `clean`."""
    draw, at = random.Random(name), 0
    for split, count in SIZES.items():
        rows: list[Row] = []
        for _ in range(count):
            rows += [{"sample_id": f"{name}-{at}"} | row for row in DATA[name](at, draw)]
            at += 1
        write_rows(clean, split, rows)


def write_rows(clean: Path, split: str, rows: list[Row]) -> None:
    """Write rows as the clean table of a split, with the columns that they have."""
    names = [name for name in CANONICAL if any(name in row for row in rows)]
    schema = pa.schema([(name, CANONICAL[name]) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema), clean / f"{split}.parquet")


def make_cache(
    folder: Path,
    tokenize: dict[str, Any],
    shapes: dict[str, Any] | None = None,
    weights: Path = Path("data/.gitkeep"),
) -> Any:
    """The opened training cache of `folder`/clean, through the code of the pipeline."""
    from plumbline.files import write_digests
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.shapes.detect import ShapesConfig, detect_shapes
    from plumbline.tokenization.cache import build_cache
    from plumbline.tokenization.settings import TokenizeConfig

    out = folder / "cache"
    out.mkdir()
    found = detect_shapes(folder / "clean", ShapesConfig(**(shapes or {})))
    build_cache(folder / "clean", out, TokenizeConfig.model_validate(tokenize), found, weights)
    write_digests(out)
    return TrainingCache(out)


VIT = {
    "name": "vit",
    "image_size": 16,
    "patch_size": 8,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "mlp_width": 16,
}
TEXT = {
    "name": "transformer",
    "width": 16,
    "layers": 1,
    "heads": 2,
    "mlp_width": 16,
    "max_tokens": 80,
}
NGRAMS = {"name": "ngrams", "width": 16, "buckets": 97}
SEQUENCE = {
    "name": "sequence",
    "convs": [{"channels": 12, "kernel": 3, "stride": 2}],
    "width": 16,
    "layers": 1,
    "heads": 2,
    "mlp_width": 16,
    "max_steps": 64,
}
DECODER = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 32,
    "max_positions": 96,
}
BERT = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16, "max_positions": 96}
MARIAN = {
    "width": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "heads": 2,
    "mlp_width": 32,
    "max_positions": 96,
    "dropout": 0.0,
}
SPECTROGRAM = {
    "modality": "audio",
    "sample_rate": RATE,
    "n_mels": 12,
    "window_ms": 16.0,
    "hop_ms": 5.0,
    "fft": 128,
}
AUGMENTED = {"augment": {"enlarge": 4, "flip": 0.5, "brightness": 0.3}}
COVERED = {"augment": {"time_masks": 1, "time_width": 5, "mel_masks": 1, "mel_width": 4}}
MOVED = {"augment": {"shift_ms": 5.0, "gain_db": 6.0}}


@dataclass(frozen=True)
class Case:
    """A kind of task in one of its forms."""

    kind: str
    data: str
    model: dict[str, Any]
    task: dict[str, Any]
    evaluate: dict[str, Any] = field(default_factory=dict)

    @property
    def additive(self) -> bool:
        """Whether the losses of micro-batches add up, as they do where samples do not meet."""
        return self.kind != "alignment"


def _classifies(encoder: dict[str, Any], **inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"encoder": encoder}, {"inputs": inputs}


GRAY = {"normalize": {"preset": None, "mean": [0.4], "std": [0.25]}} | {
    "augment": {"padding": 2, "flip": 0.5, "brightness": 0.2, "contrast": 0.2}
}
STREAM = {"block_size": 24, "rows": "stream"}
ROWS = {"block_size": 40, "rows": "padded"}
CASES: dict[str, Case] = {
    "vlm_turns": Case(
        "vlm",
        "shown",
        {"projector": {"name": "mlp", "width": 16}, "decoder": DECODER},
        {"text": "turns", "block_size": 96, "rows": "padded"},
        {"max_new_tokens": 5},
    ),
    "vlm": Case(
        "vlm",
        "scenes",
        {"projector": {"name": "mlp", "width": 16}, "decoder": DECODER},
        {"questions_per_image": 2, "rows": "padded"},
        {"max_new_tokens": 5},
    ),
    "causal_lm_stream": Case("causal_lm", "text", {"decoder": DECODER}, STREAM),
    "causal_lm_rows": Case("causal_lm", "text", {"decoder": DECODER}, ROWS),
    "causal_lm_answers": Case(
        "causal_lm", "answers", {"decoder": DECODER}, ROWS | {"text": "question_answer"}
    ),
    "causal_lm_turns": Case(
        "causal_lm",
        "chats",
        {"decoder": DECODER},
        {"block_size": 70, "rows": "padded", "text": "turns"},
    ),
    "masked_lm_stream": Case("masked_lm", "text", BERT, STREAM),
    "masked_lm_rows": Case("masked_lm", "text", BERT, ROWS),
    "seq2seq": Case(
        "seq2seq",
        "pairs",
        MARIAN,
        {"max_source_tokens": 40, "max_target_tokens": 40, "rows": "padded"},
        {"beams": 2, "max_new_tokens": 8},
    ),
    "text": Case("classification", "reviews", *_classifies(TEXT, modality="text", max_tokens=60)),
    "text_words": Case(
        "classification",
        "reviews",
        *_classifies(
            TEXT | {"layers": 0, "pooling": "max"},
            modality="text",
            max_tokens=60,
            word_dropout=0.3,
        ),
    ),
    "image": Case("classification", "pictures", *_classifies(VIT, modality="image", **AUGMENTED)),
    "gray": Case(
        "classification", "gray", *_classifies(VIT | {"channels": 1}, modality="image", **GRAY)
    ),
    "audio": Case("classification", "clips", *_classifies(SEQUENCE, **SPECTROGRAM, **MOVED)),
    "features": Case(
        "classification", "signals", *_classifies(SEQUENCE, modality="features", max_steps=12)
    ),
    "regression": Case("regression", "numbers", *_classifies(SEQUENCE, modality="features")),
    "align_image": Case(
        "alignment",
        "scenes",
        {"image_encoder": VIT, "text_encoder": TEXT, "embed_dim": 8},
        {"inputs": {"modality": "image"} | AUGMENTED, "widths": [4, 8], "text_dropout": 0.2},
    ),
    "align_audio": Case(
        "alignment",
        "clips",
        {"audio_encoder": SEQUENCE, "text_encoder": TEXT, "embed_dim": 8},
        {"inputs": SPECTROGRAM | COVERED, "loss": "sigmoid"},
    ),
    "align_ngrams": Case(
        "alignment",
        "pictures",
        {"image_encoder": VIT, "text_encoder": NGRAMS, "embed_dim": 8},
        {"inputs": {"modality": "image"}},
    ),
}
"""Every kind of task in every form; none has batch norm or dropout, so that samples stay apart."""
