"""What a compiled training has stored is a model like any other, and is exported as such."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.files import read_json, staged_folder
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from plumbline.training.processes import Processes
from tests.export.conftest import settings_of
from tests.training.together import MakeJob, settings, train


@pytest.mark.slow
def test_a_compiled_training_of_accumulated_images_becomes_a_bundle(
    make_job: MakeJob,
    caches: Callable[[str], TrainingCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    asked = settings(
        batch_size=4,
        compile={"mode": "default"},
        grad_accum_steps=2,
        gradient_checkpointing=True,
    )
    train(make_job("image"), asked, Path("model"), Processes())
    torch._dynamo.reset()
    source = BundleSource(load_model(Path("model")), caches("pictures"), {}, threads=1)
    with staged_folder(Path("bundle")) as partial:
        write_bundle(source, settings_of("image", formats=["onnx"]), partial)
    # Writing it has compared more, and fails where the bundle does not agree with the checkpoint.
    parity = read_json(Path("bundle/metadata.json"))["formats"]["onnx"]["parity"]
    assert parity["max_logits_difference"] == pytest.approx(0.0, abs=1e-4)
