"""A vision-language model of conversations that show several images, from files to its bundle."""

import argparse
import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from plumbline import paths
from plumbline.files import read_json
from plumbline.params import installed_versions
from plumbline.predict import add_options, predict
from plumbline.stages import (
    detect_shapes,
    evaluate_model,
    export_model,
    finetune,
    prepare,
    resolve_weights,
    tokenize_text,
    validate,
)
from tests import chat_checkpoints
from tests.checkpoints import VOCAB, write_checkpoint

COLOURS = ("red", "blue", "green")
BRIEF = {"role": "system", "content": "Be brief."}


def settings() -> dict[str, Any]:
    return {
        "versions": installed_versions(),
        "seed": 0,
        "threads": 1,
        "weights": {"qwen3": {"set": "language", "path": "checkpoints/qwen3"}},
        "datasets": {
            "shown": {
                "path": "data/shown",
                "weights": "work/tokenizers/language",
                "prepare": {
                    "source": "jsonl",
                    "chat": {"dialect": "messages", "images": True},
                    "columns": {"sample_id": "id"},
                },
                "validate": {"views": {"chat": ["turns"], "shown": ["turns", "images"]}},
                "detect_shapes": {},
                "tokenize": {"tokenizer": {"pretrained": "qwen3"}, "image_size": [16, 16]},
            }
        },
        "tasks": {
            "talk": {
                "kind": "vlm",
                "data": "shown",
                "start": "models/align/image",
                "weights": "work/weights/language",
                "train": {
                    "freeze": ["image_encoder"],
                    "model": {
                        "projector": {"name": "mlp", "width": 16},
                        "decoder": {"pretrained": "qwen3"},
                    },
                    "task": {"text": "turns", "block_size": 120},
                    "adapters": {"decoder": {"rank": 4}},
                    "loader": {"batch_size": 8},
                    "trainer": {"epochs": 3, "precision": "fp32", "optim": {"lr": 5e-3}},
                },
                "evaluate": {"max_new_tokens": 6},
                "export": {
                    "formats": ["onnx"],
                    "parity_samples": 4,
                    "selftest_samples": 2,
                    "max_new_tokens": 6,
                },
            }
        },
    }


def square(number: int) -> bytes:
    """One colour, another size and shade for each number."""
    buffer = io.BytesIO()
    shade = [40 + number] * 3
    shade[["red", "green", "blue"].index(COLOURS[number % 3])] = 250
    Image.new("RGB", (16 + number % 2, 16), tuple(shade)).save(buffer, "PNG")
    return buffer.getvalue()


def write_data(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(60):
        names = [f"{number}.png", f"{number ^ 1}.png"]  # two rows have the same images
        (folder / names[0]).write_bytes(square(number))
        parts = [{"type": "image", "image": name} for name in names]
        asked = [parts[0], {"type": "text", "text": "What colour? And "}, parts[1]]
        messages = [
            *([BRIEF] if number % 2 else []),
            {"role": "user", "content": asked},
            {"role": "assistant", "content": COLOURS[number % 3]},
        ]
        rows.append({"id": str(number), "messages": messages})
    rows.append({"id": "text", "messages": [{"role": "user", "content": "<image>?"}, messages[-1]]})
    lost = {"role": "user", "content": [{"type": "image", "image": "none.png"}]}
    rows.append({"id": "lost", "messages": [lost, messages[-1]]})
    one = {"role": "user", "content": "<image> and <image>?"}
    rows.append({"id": "one", "messages": [one, messages[-1]], "images": ["0.png"]})
    (folder / "shown.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_a_model_of_several_images_is_trained_asked_and_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aligned_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(Path("data/shown"))
    shutil.copytree(aligned_folder, "models/align/image")
    folder = chat_checkpoints.write_checkpoint(Path("checkpoints/qwen3"), "chatml")
    write_checkpoint("qwen3", folder)
    Path("params.yaml").write_text(yaml.safe_dump(settings()), encoding="utf-8")
    resolve_weights.main(["qwen3"])
    for stage in (prepare, validate, detect_shapes, tokenize_text):
        stage.main(["shown"])
    reasons = read_json(paths.quarantine("shown") / "report.json")["reasons"]
    assert reasons == {"null_image": 1, "image_places": 1}
    facts = read_json(paths.cache("shown") / "cache.json")
    assert facts["images"] == 60
    assert facts["image_shape"] == [16, 16, 3]

    for stage in (finetune, evaluate_model, export_model):
        stage.main(["talk"])
    figures = read_json(paths.task_evaluation("talk") / "details.json")["figures"]
    assert 0 < figures["answer_perplexity"] < VOCAB
    assert figures["questions"] > 2
    assert math.isfinite(figures["exact_match"])
    maps = np.load(paths.task_evaluation("talk") / "attention.npy")
    assert maps.ndim == 4
    assert 0 < maps.sum(axis=(2, 3)).min() < maps.sum(axis=(2, 3)).max() < 1
    formats = read_json(paths.export("talk") / "metadata.json")["formats"]
    assert formats["onnx"]["parity"]["token_agreement"] == 1.0
    compare_answers(paths.finetuned("talk"), paths.export("talk"))


def compare_answers(model: Path, bundle: Path) -> None:
    """The model and its bundle say the same of two images under a system prompt."""
    names = ["data/shown/4.png", "data/shown/3.png"]
    parts = [{"type": "image", "image": name} for name in names]
    asked = [parts[0], {"type": "text", "text": "What colour? And "}, parts[1]]
    turns = json.dumps([BRIEF, {"role": "user", "content": asked}])
    parser = argparse.ArgumentParser()
    add_options(parser)
    flags = ["talk", "--messages", turns, "--max-new-tokens", "6"]
    said = predict(model, parser.parse_args(flags))
    images = [flag for name in names for flag in ("--images", name)]
    done = subprocess.run(
        [sys.executable, "-I", str(bundle / "inference.py"), "--messages", turns, *images],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["answer"] == said["answer"]
