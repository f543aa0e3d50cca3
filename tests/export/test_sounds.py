"""Bundles of encoders of sounds from checkpoints, with the preprocessing of their processors."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.export.bundle import write_bundle
from plumbline.export.media import encode_wav
from plumbline.export.plan import BundleSource
from plumbline.export.runtime.model import selftest
from plumbline.files import read_json, staged_folder
from plumbline.kinds.headed.ask import headed_inputs
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from tests.checkpoints import record_checkpoint, write_checkpoint
from tests.conftest import store
from tests.export.conftest import settings_of
from tests.export.opening import model_of

ENCODER = {"name": "transformers_audio", "pretrained": "theirs"}
INPUTS = {"modality": "audio", "form": "checkpoint"}
MOST = {"whisper": 24 * 160}
"""Samples that a clip is cut to, where it is."""


@pytest.mark.parametrize("name", ["whisper", "wav2vec2", "hubert", "wavlm"])
def test_a_bundle_answers_clips_of_any_length_as_its_encoder_does(
    make_job: Any,
    caches: Callable[[str], TrainingCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(write_checkpoint(name, tmp_path / "theirs"))
    context = {"cache": caches("voices"), "weights": weights}
    job = make_job("audio", model={"encoder": ENCODER}, task={"inputs": INPUTS}, **context)
    (tmp_path / "model").mkdir()
    stored = load_model(store(job, tmp_path / "model"))
    with staged_folder(tmp_path / "bundle") as partial:
        source = BundleSource(stored, context["cache"], {}, threads=1)
        write_bundle(source, settings_of("audio"), partial)
    results = read_json(tmp_path / "bundle/metadata.json")["formats"]
    assert set(results) == {"onnx", "torchscript"}
    for result in results.values():
        assert result["status"] == "ok"
        assert result["parity"]["max_input_difference"] < 1e-5
        assert result["parity"]["max_logits_difference"] < 1e-5
        assert result["parity"]["class_agreement"] == 1.0
    opened = {format: model_of(tmp_path / "bundle", format=format) for format in results}
    for model in opened.values():
        assert selftest(model)["answers"] == 2
    random = np.random.default_rng(0)
    # Shorter than a token hears, of no full frame, and longer than a Whisper type takes.
    for samples in (1, 17, 1000, 3839, 5000):
        data = encode_wav(random.standard_normal(samples).astype(np.float32), 16_000)
        (tmp_path / "clip.wav").write_bytes(data)
        inputs, said = headed_inputs(stored, Namespace(audio=tmp_path / "clip.wav"), tmp_path)  # type: ignore[arg-type]
        assert said == ({"cut_steps": 8} if MOST.get(name, 5000) < samples else {})
        with torch.inference_mode():
            expected = stored.model(**inputs)
        for model in opened.values():
            arrays = model.task.inputs({"audio": data})
            np.testing.assert_allclose(arrays[0], inputs["steps"].numpy(), rtol=0, atol=1e-5)
            assert arrays[1].tolist() == inputs["mask"].tolist()
            for part, logits in model.task.logits(arrays).items():  # type: ignore[attr-defined]
                np.testing.assert_allclose(logits, expected[part].numpy(), rtol=0, atol=1e-5)
