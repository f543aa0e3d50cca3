"""A chat model of others, adapted to conversations by an adapter, from files to its bundle."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from plumbline import paths
from plumbline.files import read_json
from plumbline.params import installed_versions
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
TRAINER = {"epochs": 6, "precision": "fp32", "optim": {"lr": 5e-3}}


def settings() -> dict[str, Any]:
    return {
        "versions": installed_versions(),
        "seed": 0,
        "threads": 1,
        "weights": {"qwen3": {"set": "language", "path": "checkpoints/qwen3"}},
        "datasets": {
            "talks": {
                "path": "data/talks.jsonl",
                "weights": "work/tokenizers/language",
                "prepare": {
                    "source": "jsonl",
                    "chat": {"dialect": "sharegpt"},
                    "columns": {"sample_id": "id"},
                },
                "validate": {"views": {"chat": ["turns"]}},
                "detect_shapes": {},
                "tokenize": {"tokenizer": {"pretrained": "qwen3"}},
            }
        },
        "tasks": {
            "talk": {
                "kind": "causal_lm",
                "data": "talks",
                "start": "work/cache/talks",
                "weights": "work/weights/language",
                "train": {
                    "model": {"decoder": {"pretrained": "qwen3"}},
                    "task": {"text": "turns", "block_size": 120},
                    "adapters": {"decoder": {"rank": 4}},
                    "loader": {"batch_size": 8},
                    "trainer": TRAINER,
                },
                "evaluate": {"prompts": ["What colour?"], "sampling": {"max_new_tokens": 8}},
                "export": {"formats": ["onnx"], "parity_samples": 4, "selftest_samples": 2},
            }
        },
    }


def write_talks(file: Path) -> None:
    file.parent.mkdir(parents=True)
    rows = [
        {
            "id": str(number),
            "system": "Be brief." if number % 2 else None,
            "conversations": [
                {"from": "human", "value": f"What colour is {number}?"},
                {"from": "gpt", "value": COLOURS[number % 3]},
                {"from": "human", "value": "And <|im_end|> more?"},
                {"from": "gpt", "value": COLOURS[(number + 1) % 3]},
            ],
        }
        for number in range(60)
    ]
    rows += [{"id": "bad", "conversations": [{"from": "gpt", "value": "red"}]}]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_a_chat_model_is_adapted_and_answers_in_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_talks(Path("data/talks.jsonl"))
    folder = chat_checkpoints.write_checkpoint(Path("checkpoints/qwen3"), "chatml")
    write_checkpoint("qwen3", folder)
    Path("params.yaml").write_text(yaml.safe_dump(settings()), encoding="utf-8")
    resolve_weights.main(["qwen3"])
    for stage in (prepare, validate, detect_shapes, tokenize_text):
        stage.main(["talks"])
    assert read_json(paths.quarantine("talks") / "report.json")["reasons"] == {"turn_order": 1}
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    chat = read_json(paths.cache("talks") / "cache.json")["chat"]
    assert chat["end"] == tokenizer.convert_tokens_to_ids("<|im_end|>")

    for stage in (finetune, evaluate_model, export_model):
        stage.main(["talk"])
    metrics = read_json(paths.task_evaluation("talk") / "details.json")["figures"]
    # A head of frozen random weights can say little more than that all tokens are as likely.
    assert 0 < metrics["loss"] < math.log(VOCAB) - 0.3
    bundle = paths.export("talk")
    contract = read_json(bundle / "contract.json")
    assert contract["text"]["special_ids"]["eos"] == chat["end"]
    turns = [{"role": "user", "content": "What colour is 7?"}]
    done = subprocess.run(
        [sys.executable, "-I", str(bundle / "inference.py"), "--messages", json.dumps(turns)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["finish"] in ("end", "length")
