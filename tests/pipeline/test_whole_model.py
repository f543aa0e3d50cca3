"""A whole vision-language model of one checkpoint, from conversations to its bundle."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline import paths
from plumbline.files import read_json
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
from tests.pipeline.checkout import Checkout, make_checkout
from tests.pipeline.test_shown_images import compare_answers, settings, write_data
from tests.whole_checkpoints import IMAGE_TOKENS, LONGEST, SIDE, write_whole

WHOLE = {
    "image_encoder": {"name": "transformers", "pretrained": "smolvlm"},
    "projector": {"name": "pixel_shuffle", "pretrained": "smolvlm"},
    "decoder": {"pretrained": "smolvlm"},
}
RESIZE = {"resample": "lanczos", "longest_edge": LONGEST}
INPUTS = {"modality": "image", "normalize": {"preset": "checkpoint"}, "resize": "checkpoint"}


def from_one_checkpoint() -> dict[str, Any]:
    """The settings of `test_shown_images`, with every part from one checkpoint."""
    found = settings()
    found["weights"] = {"smolvlm": {"set": "whole", "path": "checkpoints/smolvlm"}}
    dataset, task = found["datasets"]["shown"], found["tasks"]["talk"]
    dataset["weights"] = "work/tokenizers/whole"
    dataset["tokenize"] = {
        "tokenizer": {"pretrained": "smolvlm"},
        "image_size": [SIDE, SIDE],
        "image_resize": RESIZE,
    }
    task |= {"start": "work/cache/shown", "weights": "work/weights/whole"}
    task["train"] |= {"model": WHOLE}
    task["train"]["task"]["inputs"] = INPUTS
    return found


def test_an_adapter_on_a_whole_model_is_trained_asked_and_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(Path("data/shown"))
    write_whole(Path("checkpoints/smolvlm"))
    Path("params.yaml").write_text(yaml.safe_dump(from_one_checkpoint()), encoding="utf-8")
    resolve_weights.main(["smolvlm"])
    for stage in (prepare, validate, detect_shapes, tokenize_text):
        stage.main(["shown"])
    for task_stage in (finetune, evaluate_model, export_model):
        task_stage.main(["talk"])
    metrics = read_json(paths.finetuned("talk") / "metrics.json")
    assert metrics["adapters"]["decoder"]["merged_difference"] <= 1e-5
    assert metrics["parameters"]["image_encoder"]["trained"] == 0
    base = read_json(paths.finetuned("talk") / "adapters/decoder/base.json")
    assert "model.safetensors" in base["files"]
    facts = read_json(paths.export("talk") / "metadata.json")
    parity = facts["formats"]["onnx"]["parity"]
    assert (parity["token_agreement"], parity["max_input_difference"]) == (1.0, 0.0)
    assert facts["model"]["image_tokens"] == IMAGE_TOKENS
    # Neither the model nor its bundle needs the checkpoint.
    shutil.rmtree("checkpoints")
    compare_answers(paths.finetuned("talk"), paths.export("talk"))


SMALL = f"""# @package _global_
# The recipe at the size of a test.
defaults:
  - smolvlm
threads: 1
datasets:
  visual_chat:
    path: data/visual_chat
    validate: {{split: {{val: 0.1, test: 0.2}}}}
    tokenize:
      image_size: [{SIDE}, {SIDE}]
      image_resize: {{longest_edge: {LONGEST}}}
tasks:
  visual_chat:
    train:
      loader: {{batch_size: 8}}
      trainer: {{epochs: 2, precision: fp32, optim: {{lr: 1.0e-3}}}}
    evaluate: {{max_new_tokens: 6}}
    export: {{max_new_tokens: 6}}
"""
RECIPE = "conf/experiment/smolvlm.yaml"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the small recipe has run."""
    checkout = make_checkout(tmp_path_factory.mktemp("whole"))
    folder = checkout.folder
    write_data(folder / "data/visual_chat")
    write_whole(folder / "checkpoints/smolvlm")
    (folder / "conf/experiment/small.yaml").write_text(SMALL, encoding="utf-8")
    checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: small")
    checkout.run(sys.executable, "-m", "stages.check_params", "--write")
    checkout.run("dvc", "repro")
    return checkout


@pytest.mark.slow
def test_the_recipe_trains_the_whole_and_its_bundle_agrees(project: Checkout) -> None:
    metrics = read_json(project.folder / paths.finetuned("visual_chat") / "metrics.json")
    trained = {part: count["trained"] for part, count in metrics["parameters"].items()}
    assert trained["image_encoder"] == 0
    assert trained["projector"] > 0
    assert trained["decoder"] == metrics["parameters"]["decoder"]["all"]
    formats = read_json(project.folder / paths.export("visual_chat") / "metadata.json")["formats"]
    assert {result["status"] for result in formats.values()} == {"ok"}
    assert all(result["parity"]["token_agreement"] == 1.0 for result in formats.values())


@pytest.mark.slow
def test_another_name_of_the_folder_reruns_no_training_and_another_byte_does(
    project: Checkout,
) -> None:
    folder = project.folder
    (folder / "checkpoints/smolvlm").rename(folder / "checkpoints/copy")
    project.replace(RECIPE, "checkpoints}/smolvlm", "checkpoints}/copy")
    project.run(sys.executable, "-m", "stages.check_params", "--write")
    moved = set(project.stages_run("dvc", "repro"))
    task = {"finetune@visual_chat", "evaluate_model@visual_chat", "export_model@visual_chat"}
    assert "resolve_weights@smolvlm" in moved
    assert not moved & {*task, "tokenize_text@visual_chat"}
    weights = folder / "checkpoints/copy/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = set(project.stages_run("dvc", "repro"))
    assert "finetune@visual_chat" in changed
    assert "tokenize_text@visual_chat" not in changed
    # What the processor says of images is no matter to a tokenizer either.
    file = folder / "checkpoints/copy/processor_config.json"
    said = read_json(file)
    said["image_processor"]["image_mean"] = [0.4, 0.4, 0.4]
    file.write_text(json.dumps(said), encoding="utf-8")
    changed = set(project.stages_run("dvc", "repro"))
    assert "finetune@visual_chat" in changed
    assert "tokenize_text@visual_chat" not in changed
