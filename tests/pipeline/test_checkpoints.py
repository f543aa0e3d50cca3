"""Both phases from checkpoints of others, by dvc: what reruns, what is recorded, what comes out."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plumbline import paths
from plumbline.files import read_json, sha256_file
from plumbline.sources.scenes import ScenesSource
from tests.checkpoints import write_checkpoint, write_tokenizer
from tests.pipeline.checkout import Checkout, make_checkout

SMALL = """# @package _global_
# The recipe at the size of a test.
defaults:
  - scenes_of_recipe
threads: 1
datasets:
  scenes:
    weights: work/tokenizers/language
    prepare: {images: 160, image_size: 32}
    validate: {split: {val: 0.1, test: 0.2}}
    tokenize: {tokenizer: {pretrained: qwen3}, image_size: [32, 32]}
align:
  image:
    data: scenes
    train:
      model:
        text_encoder: {width: 32, layers: 1, mlp_width: 64}
        embed_dim: 32
      task: {widths: [16, 32]}
      loader: {batch_size: 32}
      trainer: {epochs: 1, precision: fp32}
tasks:
  vqa:
    data: scenes
    train:
      model: {projector: {width: 32}}
      adapters: {decoder: {rank: 4}}
      loader: {batch_size: 32}
      trainer: {epochs: 1, precision: fp32, optim: {lr: 1.0e-3}}
    evaluate: {max_new_tokens: 8}
    export: {max_new_tokens: 8}
"""
RECIPE = "conf/experiment/siglip_qwen3.yaml"
HEAVY = {"pretrain_alignment@image", "finetune@vqa"}


def texts() -> list[str]:
    """What the embedded drawings are spoken of with."""
    source = ScenesSource.model_validate({"source": "scenes", "images": 40, "image_size": 32})
    words: list[str] = []
    for batch in source.read(Path()):
        for column in ("caption", "question", "answer"):
            words += [text for text in batch.column(column).to_pylist() if text]
    return words


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the small recipe has run."""
    checkout = make_checkout(tmp_path_factory.mktemp("checkpoints"))
    folder = checkout.folder
    recipe = (folder / RECIPE).read_text(encoding="utf-8").replace("easy_vqa", "scenes")
    (folder / "conf/experiment/scenes_of_recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "conf/experiment/small.yaml").write_text(SMALL, encoding="utf-8")
    checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: small")
    write_checkpoint("siglip", folder / "checkpoints/siglip")
    write_checkpoint("qwen3", folder / "checkpoints/qwen3")
    write_tokenizer(texts(), folder / "checkpoints/qwen3")
    checkout.run(sys.executable, "-m", "stages.check_params", "--write")
    checkout.run("dvc", "repro")
    return checkout


def ran(checkout: Checkout) -> set[str]:
    return set(checkout.stages_run("dvc", "repro"))


def test_records_hold_files_and_digests_and_no_place(project: Checkout) -> None:
    record = read_json(project.folder / paths.weights("language") / "qwen3.json")
    assert set(record["files"]) == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
    }
    tokenizer = read_json(project.folder / paths.tokenizers("language") / "qwen3.json")
    assert set(tokenizer["files"]) == {"tokenizer.json"}
    assert "checkpoints" not in json.dumps(record)


def test_the_aligned_tower_is_the_checkpoint_s_and_the_bundle_agrees(project: Checkout) -> None:
    spec = read_json(project.folder / paths.aligned("image") / "model.json")
    assert spec["model"]["image_encoder"]["image_size"] == 32
    assert spec["inputs"]["normalize"]["mean"] == [0.5, 0.5, 0.5]
    metrics = read_json(project.folder / paths.finetuned("vqa") / "metrics.json")
    adapter = metrics["adapters"]["decoder"]
    assert (adapter["base"], adapter["layers"]) == ("nf4", 14)
    assert adapter["merged_difference"] <= 1e-5
    assert (metrics["parameters"]["image_encoder"]["trained"]) == 0
    formats = read_json(project.folder / paths.export("vqa") / "metadata.json")["formats"]
    assert {result["status"] for result in formats.values()} == {"ok"}
    assert all(r["parity"]["token_agreement"] == 1.0 for r in formats.values())


def test_the_adapter_is_stored_with_the_name_of_its_base(project: Checkout) -> None:
    folder = project.folder / paths.finetuned("vqa") / "adapters/decoder"
    settings: dict[str, Any] = read_json(folder / "adapter_config.json")
    assert settings["base_model_name_or_path"] == "qwen3"
    assert (settings["r"], settings["peft_type"]) == (4, "LORA")
    record = read_json(project.folder / paths.weights("language") / "qwen3.json")
    base = {"name": "qwen3", "revision": None, "files": record["files"]}
    assert read_json(folder / "base.json") == base


def test_the_bundle_delivers_the_adapter_alone_as_well(project: Checkout) -> None:
    trained = project.folder / paths.finetuned("vqa") / "adapters"
    bundle = project.folder / paths.export("vqa")
    names = {file.relative_to(trained).as_posix() for file in trained.rglob("*.*")}
    assert names == {
        *("decoder/adapter_config.json", "decoder/adapter_model.safetensors", "decoder/base.json")
    }
    digests = read_json(bundle / "digests.json")
    for name in names:
        assert digests[f"adapters/{name}"] == sha256_file(trained / name)
        assert sha256_file(bundle / "adapters" / name) == sha256_file(trained / name)


def test_a_folder_of_another_name_reruns_no_training_and_another_byte_does(
    project: Checkout,
) -> None:
    folder = project.folder
    (folder / "checkpoints/qwen3").rename(folder / "checkpoints/qwen3-copy")
    recipe = "conf/experiment/scenes_of_recipe.yaml"
    project.replace(recipe, "checkpoints}/qwen3", "checkpoints}/qwen3-copy")
    project.run(sys.executable, "-m", "stages.check_params", "--write")
    moved = ran(project)
    assert "resolve_weights@qwen3" in moved
    assert not moved & {*HEAVY, "tokenize_text@scenes", "evaluate_model@vqa", "export_model@vqa"}
    weights = folder / "checkpoints/qwen3-copy/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = ran(project)
    assert "finetune@vqa" in changed
    assert not changed & {"pretrain_alignment@image", "tokenize_text@scenes"}


def test_a_checkpoint_that_changed_behind_dvc_is_refused(project: Checkout) -> None:
    weights = project.folder / "checkpoints/siglip/model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    done = project.run(sys.executable, "-m", "stages.pretrain_alignment", "image", check=False)
    weights.write_bytes(kept)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: checkpoints/siglip/model\.safetensors: changed since resolve_weights@siglip saw "
        r"it; run dvc repro\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("weights.siglip.path=nowhere", "weights.siglip: nowhere: no such folder"),
        ("weights.siglip.path=conf", "weights.siglip: conf: holds no checkpoint"),
        ("weights.siglip.hub=owner/name", "revision None is not a commit of owner/name"),
    ],
)
def test_weights_that_cannot_be_had_are_one_line(
    project: Checkout, override: str, told: str
) -> None:
    command = (sys.executable, "-m", "stages.resolve_weights", "siglip", override)
    done: subprocess.CompletedProcess[str] = project.run(*command, check=False)
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_hub_id_offline_is_one_line(project: Checkout) -> None:
    place = [
        "weights.siglip.hub=owner/name",
        f"weights.siglip.revision={'0' * 40}",
        "weights.siglip.path=data/.gitkeep",
    ]
    command = (sys.executable, "-m", "stages.resolve_weights", "siglip", *place)
    done = project.run(*command, check=False)
    assert done.returncode == 1
    assert "owner/name at 000000000000: not on this machine and not to be had" in done.stderr
    assert done.stderr.count("\n") == 1
