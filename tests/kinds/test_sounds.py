"""Encoders of sounds from checkpoints, in what the kinds make of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from plumbline.kinds.alignment.evaluate import Embedder
from plumbline.kinds.alignment.model import load_dual_encoder
from plumbline.loading.cache_reader import TrainingCache
from plumbline.training.task import TrainingJob
from tests.checkpoints import record_checkpoint, write_checkpoint
from tests.conftest import store

MakeJob = Callable[..., TrainingJob]


def test_an_encoder_from_a_checkpoint_is_fed_as_in_its_alignment(
    make_job: MakeJob,
    caches: Callable[[str], TrainingCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which the settings need not say again."""
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(write_checkpoint("whisper", tmp_path / "theirs"))
    sound = {"name": "transformers_audio", "pretrained": "theirs"}
    asked = {"modality": "audio", "form": "checkpoint"}
    cache = caches("voices")
    aligned = make_job(
        "align_audio",
        model={"audio_encoder": sound},
        task={"inputs": asked},
        cache=cache,
        weights=weights,
    )
    (tmp_path / "aligned").mkdir()
    start = store(aligned, tmp_path / "aligned")
    moved = {"gain_db": 3.0}
    task = {"inputs": asked | {"augment": moved}}
    job = make_job("audio", model={"encoder": None}, task=task, cache=cache, start=start)
    ours, theirs = (each.spec.inputs.model_dump() for each in (job, aligned))  # type: ignore[attr-defined]
    assert ours.pop("augment")["gain_db"] == moved["gain_db"]
    assert theirs.pop("augment")["gain_db"] == 0.0
    assert ours == theirs
    assert ours["form"] == "log_mel"
    found = job.model.get_submodule("encoder").state_dict()
    expected = aligned.model.get_submodule("audio_encoder").state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("checkpoint", ["whisper", "wavlm"])
def test_an_alignment_embeds_a_clip_alike_in_any_batch(
    make_job: MakeJob,
    caches: Callable[[str], TrainingCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: str,
) -> None:
    """What is measured does not go by `evaluate.batch_size`."""
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(write_checkpoint(checkpoint, tmp_path / "theirs"))
    cache = caches("voices")
    job = make_job(
        "align_audio",
        model={"audio_encoder": {"name": "transformers_audio", "pretrained": "theirs"}},
        task={"inputs": {"modality": "audio", "form": "checkpoint"}},
        cache=cache,
        weights=weights,
    )
    (tmp_path / "aligned").mkdir()
    stored = load_dual_encoder(store(job, tmp_path / "aligned"))
    stored.model.eval()
    numbers = np.arange(9, dtype=np.int32)
    one, all_at_once = (
        Embedder(stored, cache, torch.device("cpu"), size).embed_media(numbers) for size in (1, 9)
    )
    np.testing.assert_allclose(one, all_at_once, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("checkpoint", ["whisper", "hubert"])
def test_micro_batches_give_the_gradient_of_one_batch(
    make_job: MakeJob,
    caches: Callable[[str], TrainingCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: str,
) -> None:
    """Whatever clips are padded with in them."""
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(write_checkpoint(checkpoint, tmp_path / "theirs"))
    job = make_job(
        "audio",
        model={"encoder": {"name": "transformers_audio", "pretrained": "theirs"}},
        task={"inputs": {"modality": "audio", "form": "checkpoint"}},
        cache=caches("voices"),
        weights=weights,
    )
    model = job.model.double().eval()  # no dropout, whose draws go by the batch

    def gradient(*sizes: int) -> dict[str, torch.Tensor]:
        model.zero_grad()
        at = 0
        for size in sizes:
            batch = job.task.collate([job.train.sample(i, 0) for i in range(at, at + size)])
            batch["inputs"]["steps"] = batch["inputs"]["steps"].double()
            job.task.loss(model, batch).total.backward()
            at += size
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    whole, parted = gradient(6), gradient(1, 3, 2)
    assert whole.keys() == parted.keys()
    for name, expected in whole.items():
        torch.testing.assert_close(parted[name], expected, rtol=1e-6, atol=1e-6)
