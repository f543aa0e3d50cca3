"""Every kind of task as a tiny pipeline: source, validation, shapes, cache, training, figures.

The stages run in this process, on settings that are written here, in a folder of their own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from plumbline import paths
from plumbline.report.collect import figures_of
from plumbline.stages import (
    detect_shapes,
    evaluate_alignment,
    evaluate_model,
    export_alignment,
    export_model,
    finetune,
    prepare,
    pretrain_alignment,
    tokenize_text,
    validate,
)

SPLIT = {"seed": 0, "val": 0.2, "test": 0.2, "min_rows": 4}
OPTIM = {"lr": 5e-3}
TRAINER = {"epochs": 2, "precision": "fp32", "optim": OPTIM, "schedule": {"name": "constant"}}
EXPORT = {"parity_samples": 6, "selftest_samples": 2}
WORDS = ("red", "green", "blue", "round", "square", "large", "small", "near")


def dataset(path: str, prepare: dict[str, Any], views: dict[str, list[str]], **rest: Any) -> Any:
    tokenizer = rest.pop("tokenizer", {"kind": "bpe", "vocab_size": 300})
    return {
        "path": path,
        "weights": "data/.gitkeep",
        "prepare": prepare,
        "validate": {"views": views, "split": SPLIT},
        "detect_shapes": {"min_train_rows": 1},
        "tokenize": {"tokenizer": tokenizer, **rest},
    }


DATASETS = {
    "plays": dataset(
        "data/plays",
        {"source": "text", "unit": "file", "shares": {"train": 0.6, "val": 0.2, "test": 0.2}},
        {"language": ["text"]},
        tokenizer={"kind": "char", "vocab_size": 100, "min_frequency": 1},
    ),
    "chats": dataset(
        "data/chats",
        {"source": "jsonl", "chat": {"dialect": "messages"}},
        {"chat": ["turns"]},
        tokenizer={"kind": "char", "vocab_size": 100, "min_frequency": 1},
    ),
    "pairs": dataset(
        "data/pairs",
        {"source": "jsonl", "columns": {"source": "de", "target": "en"}},
        {"translate": ["source", "target"]},
    ),
    "reviews": dataset(
        "data/reviews",
        {"source": "csv", "columns": {"sample_id": "id", "text": "text", "label": "label"}},
        {"classify": ["text", "label"]},
    ),
    "pictures": dataset(
        "data/pictures", {"source": "imagefolder"}, {"classify": ["image", "label"]}
    ),
    "clips": dataset(
        "data/clips",
        {
            "source": "parts",
            "parts": {
                "pitch": {"source": "audiofolder", "templates": {"caption": "a {label} sound"}},
                "length": {
                    "source": "csv",
                    "columns": {"sample_id": "id", "audio": "file", "label": "length"},
                },
            },
        },
        {"classify": ["audio", "label"], "caption": ["audio", "caption"]},
        sample_rate=8000,
    ),
    "numbers": dataset(
        "data/numbers",
        {"source": "jsonl", "columns": {"features": "x", "value": "y"}},
        {"regress": ["features", "value"]},
    ),
}
AUDIO = {"modality": "audio", "sample_rate": 8000, "n_mels": 16, "fft": 256}
SEQUENCE = {"name": "sequence", "convs": [{"channels": 16, "stride": 2}], "width": 16}
SMALL = {"width": 16, "heads": 2, "mlp_width": 16}
TEXT_ENCODER = {"name": "transformer", "layers": 1, "max_tokens": 32, **SMALL}
VIT = {"name": "vit", "image_size": 16, "patch_size": 8, "layers": 1, **SMALL}


def task(kind: str, data: str, model: Any, settings: Any, **evaluate: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "data": data,
        "start": DATASETS[data]["path"],
        "weights": "data/.gitkeep",
        "train": {
            "model": model,
            "task": settings,
            "loader": {"batch_size": 8},
            "trainer": TRAINER,
        },
        "evaluate": evaluate,
        "export": dict(EXPORT),
    }


TASKS = {
    "next": task(
        "causal_lm",
        "plays",
        {"decoder": {"layers": 1, "kv_heads": 2, "max_positions": 64, **SMALL}},
        {"block_size": 16},
        prompts=["red "],
        sampling={"max_new_tokens": 8, "temperature": 0.0},
    ),
    "chat": task(
        "causal_lm",
        "chats",
        {"decoder": {"layers": 1, "kv_heads": 2, "max_positions": 80, **SMALL}},
        {"block_size": 64, "text": "turns"},
        prompts=["red "],
        sampling={"max_new_tokens": 8, "temperature": 0.0},
    ),
    "hidden": task(
        "masked_lm", "plays", {"layers": 1, "max_positions": 32, **SMALL}, {"block_size": 16}
    ),
    "translate": task(
        "seq2seq",
        "pairs",
        {"encoder_layers": 1, "decoder_layers": 1, "max_positions": 48, **SMALL},
        {"max_source_tokens": 40, "max_target_tokens": 40},
        beams=2,
        max_new_tokens=8,
    ),
    "sentiment": task(
        "classification",
        "reviews",
        {"encoder": TEXT_ENCODER},
        {"inputs": {"modality": "text", "max_tokens": 30}},
    ),
    "shapes": task(
        "classification",
        "pictures",
        {"encoder": VIT},
        {"inputs": {"modality": "image"}},
    ),
    "heard": task(
        "classification",
        "clips",
        {"encoder": SEQUENCE},
        {"inputs": AUDIO, "class_weights": "balanced"},
    ),
    "amount": task(
        "regression", "numbers", {"encoder": SEQUENCE}, {"inputs": {"modality": "features"}}
    ),
}
ALIGN = {
    "sounds": {
        "data": "clips",
        "weights": "data/.gitkeep",
        "train": {
            "model": {"audio_encoder": SEQUENCE, "text_encoder": TEXT_ENCODER, "embed_dim": 8},
            "task": {"inputs": AUDIO, "max_text_tokens": 30},
            "loader": {"batch_size": 8},
            "trainer": TRAINER,
        },
        "evaluate": {"zero_shot": ["a {label} sound"], "examples": 2},
        "export": {"enabled": True, "parity_samples": 4, "selftest_samples": 2},
    }
}
EXPECTED = {
    "next": "unigram_loss",
    "chat": "unigram_loss",
    "hidden": "unigram_loss",
    "translate": "bleu",
    "sentiment": "macro_f1",
    "shapes": "macro_f1",
    "heard": "length/macro_f1",
    "amount": "r2",
}
"""Task -> a figure that only its kind has."""


def write_data(root: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("plays", "chats", "pairs", "reviews", "pictures", "clips", "numbers"):
        (root / name).mkdir(parents=True)
    lines = [" ".join(random.choice(WORDS, 6)) for _ in range(60)]
    (root / "plays" / "all.txt").write_text("\n".join(lines), encoding="utf-8")
    pairs = [{"de": line, "en": " ".join(reversed(line.split()[:5]))} for line in lines]
    text = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (root / "pairs" / "all.jsonl").write_text(text, encoding="utf-8")
    chats = [
        {
            "messages": [
                {"role": "user", "content": line},
                {"role": "assistant", "content": line[:9]},
            ]
        }
        for line in lines
    ]
    text = "".join(json.dumps(chat) + "\n" for chat in chats)
    (root / "chats" / "all.jsonl").write_text(text, encoding="utf-8")
    rows = [f"{i},{line} {i},{'red' in line.split()[:3]}" for i, line in enumerate(lines)]
    (root / "reviews" / "all.csv").write_text("\n".join(["id,text,label", *rows]), encoding="utf-8")
    table = ["id,file,length"]
    for number in range(48):
        label = ("low", "high")[number % 2]
        (root / "pictures" / label).mkdir(exist_ok=True)
        pixels = random.integers(0, 120, (16, 16, 3), dtype=np.uint8) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "pictures" / label / f"{number}.png")
        (root / "clips" / label).mkdir(exist_ok=True)
        seconds = 0.08 + 0.05 * (number % 3)
        time = np.arange(int(8000 * seconds)) / 8000
        wave = 0.5 * np.sin(2 * np.pi * (300 + 900 * (number % 2) + number) * time)
        soundfile.write(root / "clips" / label / f"{number}.wav", wave, 8000)
        table.append(f"{number},{label}/{number}.wav,{('short', 'middle', 'long')[number % 3]}")
    (root / "clips" / "length.csv").write_text("\n".join(table), encoding="utf-8")
    with (root / "numbers" / "all.jsonl").open("w") as file:
        for number in range(60):
            steps = random.normal(size=(4 + number % 5, 3)).round(3)
            value = float(steps[:, 0].mean())
            file.write(json.dumps({"x": steps.tolist(), "y": value}) + "\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose datasets have gone through all data stages; the working folder meanwhile."""
    folder = tmp_path_factory.mktemp("kinds")
    write_data(folder / "data")
    params = {
        "seed": 0,
        "threads": 1,
        "datasets": DATASETS,
        "align": ALIGN,
        "tasks": TASKS,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in DATASETS:
            for stage in (prepare, validate, detect_shapes, tokenize_text):
                stage.main([name])
        yield folder


@pytest.mark.parametrize("name", TASKS)
def test_a_task_runs_from_its_cache_to_its_bundle(project: Path, name: str) -> None:
    """One command a stage, whatever the kind."""
    finetune.main([name])
    history = (paths.finetuned(name) / "train.csv").read_text(encoding="utf-8").splitlines()
    assert len(history) > 2
    evaluate_model.main([name])
    metrics = json.loads(paths.task_metrics(name).read_text(encoding="utf-8"))
    figures = figures_of(paths.task_evaluation(name))
    assert EXPECTED[name] in figures
    assert metrics.items() <= figures.items()
    assert 0 < len(metrics) <= 4
    assert all(np.isfinite(value) for value in figures.values())
    assert (paths.task_evaluation(name) / "predictions.parquet").is_file()
    export_model.main([name])
    metadata = json.loads((paths.export(name) / "metadata.json").read_text(encoding="utf-8"))
    assert {entry["status"] for entry in metadata["formats"].values()} == {"ok"}


def test_an_audio_alignment_runs_to_its_figures(project: Path) -> None:
    """Recall both ways and zero-shot classes from clips with captions."""
    pretrain_alignment.main(["sounds"])
    evaluate_alignment.main(["sounds"])
    metrics = json.loads(paths.alignment_metrics("sounds").read_text(encoding="utf-8"))
    assert {"audio_to_text_recall_at_1", "text_to_audio_recall_at_1"} <= set(metrics)
    details = paths.alignment_evaluation("sounds") / "details.json"
    figures = json.loads(details.read_text(encoding="utf-8"))["figures"]
    right = figures["zero_shot_accuracy"] * figures["audios"]  # every clip has a label
    assert right == pytest.approx(round(right), abs=1e-9)
    export_alignment.main(["sounds"])
    bundle = paths.alignment_export("sounds")
    metadata = json.loads((bundle / "metadata.json").read_text(encoding="utf-8"))
    assert {entry["status"] for entry in metadata["formats"].values()} == {"ok"}
    assert metadata["provenance"]["stage"] == "export_alignment@sounds"
    export_alignment.main(["sounds", "align.sounds.export.enabled=false"])
    assert sorted(file.name for file in bundle.iterdir()) == ["config.json", "digests.json"]


def test_a_repeated_training_gives_the_same_weights(project: Path) -> None:
    finetune.main(["heard"])
    first = (paths.finetuned("heard") / "digests.json").read_bytes()
    finetune.main(["heard"])
    assert (paths.finetuned("heard") / "digests.json").read_bytes() == first
