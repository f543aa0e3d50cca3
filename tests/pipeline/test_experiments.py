"""Every recipe composes to settings that all stages accept."""

from pathlib import Path
from typing import Any

import pytest

from plumbline.config import compose_yaml
from plumbline.stages.check_params import check_settings

CONF = Path(__file__).resolve().parents[2] / "conf"
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_to_valid_settings(name: str) -> None:
    params = compose_yaml(CONF, "config", [f"experiment={name}"])
    check_settings(params)
    assert params["align"] or params["tasks"]


def test_every_recipe_is_in_the_docs() -> None:
    text = (CONF.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in EXPERIMENTS if f"`{name}`" not in text] == []


def train_of(recipe: str, group: str, name: str) -> Any:
    params: Any = compose_yaml(CONF, "config", [f"experiment={recipe}"])
    return params[group][name]["train"]


@pytest.mark.parametrize(
    ("recipe", "group", "name", "lr", "decay"),
    [
        ("siglip_qwen3", "align", "image", 1e-4, 0.01),
        ("siglip_qwen3", "tasks", "vqa", 2e-5, 0.2),
        ("siglip_smollm2", "align", "image", 1e-4, 0.01),
        ("siglip_smollm2", "tasks", "vqa", 2e-5, 0.2),
        ("clip_align", "align", "clip", 5e-5, 0.01),
    ],
)
def test_recipes_from_checkpoints_have_the_customary_values(
    recipe: str, group: str, name: str, lr: float, decay: float
) -> None:
    trainer = train_of(recipe, group, name)["trainer"]
    assert (trainer["optim"]["name"], trainer["schedule"]["name"]) == ("adamw", "cosine")
    assert (trainer["optim"]["lr"], trainer["optim"]["weight_decay"]) == (lr, decay)
    assert trainer["schedule"]["warmup_share"] > 0
    assert (trainer["precision"], trainer["max_grad_norm"]) == ("bf16", 1.0)
    assert trainer["grad_accum_steps"] == 2


def test_recipes_from_checkpoints_start_from_what_they_are_called_after() -> None:
    for recipe, decoder in (("siglip_qwen3", "qwen3"), ("siglip_smollm2", "smollm2")):
        align, vqa = train_of(recipe, "align", "image"), train_of(recipe, "tasks", "vqa")
        assert align["model"]["image_encoder"]["pretrained"] == "siglip"
        assert vqa["model"]["decoder"]["pretrained"] == decoder
        assert vqa["freeze"] == ["image_encoder"]
    adapter = train_of("siglip_qwen3", "tasks", "vqa")["adapters"]["decoder"]
    assert (adapter["method"], adapter["quantize"], adapter["double_quantize"]) == (
        *("lora", "nf4", True),
    )
    assert train_of("siglip_smollm2", "tasks", "vqa")["adapters"] == {}
    clip = train_of("clip_align", "align", "clip")
    for tower in ("image_encoder", "text_encoder"):
        assert (clip["model"][tower]["pretrained"], clip["model"][tower]["pooling"]) == (
            *("clip", "pooler"),
        )
    assert clip["task"]["inputs"]["resize"] == "checkpoint"
    assert clip["task"]["inputs"]["normalize"]["preset"] == "checkpoint"


def test_the_recipe_of_a_whole_model_starts_every_part_from_it_at_the_customary_values() -> None:
    params: Any = compose_yaml(CONF, "config", ["experiment=smolvlm"])
    train = params["tasks"]["visual_chat"]["train"]
    trainer, model = train["trainer"], train["model"]
    assert [model[part]["pretrained"] for part in ("image_encoder", "projector", "decoder")] == (
        ["smolvlm"] * 3
    )
    assert (model["projector"]["name"], model["projector"]["scale"]) == ("pixel_shuffle", 0)
    assert params["datasets"]["visual_chat"]["tokenize"]["tokenizer"]["pretrained"] == "smolvlm"
    assert (trainer["optim"]["name"], trainer["schedule"]["name"]) == ("adamw", "cosine")
    assert (trainer["optim"]["lr"], trainer["optim"]["weight_decay"]) == (2e-5, 0.2)
    assert (trainer["grad_accum_steps"], trainer["max_grad_norm"]) == (2, 1.0)
    # bf16 where the device has units for it.
    assert (trainer["precision"], trainer["schedule"]["warmup_share"]) == ("auto", 0.05)
    assert (train["freeze"], train["adapters"]) == (["image_encoder"], {})
    inputs = train["task"]["inputs"]
    assert (inputs["normalize"]["preset"], inputs["resize"]) == ("checkpoint", "checkpoint")
    # As the processor of SmolVLM-256M-Instruct is set to, but for its tiles.
    assert params["datasets"]["visual_chat"]["tokenize"]["image_resize"] == {
        "resample": "lanczos",
        "keep_ratio": False,
        "crop": 1.0,
        "longest_edge": 2048,
    }


def test_the_recipe_of_a_whisper_encoder_has_the_customary_values() -> None:
    params: Any = compose_yaml(CONF, "config", ["experiment=whisper_fsdd"])
    train = params["tasks"]["whisper_spoken"]["train"]
    trainer = train["trainer"]
    assert (trainer["optim"]["name"], trainer["schedule"]["name"]) == ("adamw", "cosine")
    assert (trainer["optim"]["lr"], trainer["optim"]["weight_decay"]) == (3e-5, 0.01)
    assert (trainer["schedule"]["warmup_share"], trainer["epochs"]) == (0.1, 5)
    assert (trainer["precision"], trainer["max_grad_norm"]) == ("bf16", 1.0)
    assert train["loader"]["batch_size"] * trainer["grad_accum_steps"] == 32
    assert train["model"]["encoder"] == {
        "name": "transformers_audio",
        "pretrained": "whisper",
        "pooling": "mean",
    }
    # What its processor says, at the rate at which the dataset is cached.
    inputs = train["task"]["inputs"]
    assert (inputs["form"], inputs["sample_rate"]) == ("checkpoint", 16_000)
    assert params["datasets"]["fsdd"]["tokenize"]["sample_rate"] == 16_000
