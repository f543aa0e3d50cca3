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


def test_the_recipe_from_checkpoints_has_the_customary_values() -> None:
    params: Any = compose_yaml(CONF, "config", ["experiment=siglip_qwen3"])
    align, vqa = params["align"]["image"]["train"], params["tasks"]["vqa"]["train"]
    for trainer, lr, decay in (
        (align["trainer"], 1e-4, 0.01),
        (vqa["trainer"], 2e-5, 0.2),
    ):
        assert (trainer["optim"]["name"], trainer["schedule"]["name"]) == ("adamw", "cosine")
        assert (trainer["optim"]["lr"], trainer["optim"]["weight_decay"]) == (lr, decay)
        assert trainer["schedule"]["warmup_share"] > 0
        assert (trainer["precision"], trainer["max_grad_norm"]) == ("bf16", 1.0)
        assert trainer["grad_accum_steps"] == 2
    adapter = vqa["adapters"]["decoder"]
    assert (adapter["method"], adapter["quantize"], adapter["double_quantize"]) == (
        *("lora", "nf4", True),
    )
    assert vqa["freeze"] == ["image_encoder"]
    assert align["model"]["image_encoder"]["pretrained"] == "siglip"
    assert vqa["model"]["decoder"]["pretrained"] == "qwen3"
