"""Layers that are computed twice train to the bits of layers that keep what they computed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.errors import ConfigError
from plumbline.files import read_digests
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.adapters import attach_adapters
from plumbline.training.checkpointing import Checkpointing
from plumbline.training.layers import stacks
from plumbline.training.processes import Processes
from plumbline.training.task import TrainingJob
from plumbline.training.window import Gradients
from tests.tiny import CASES
from tests.training.together import ALONE, MakeJob, Together, settings, train

FLAT = ("text_words", "align_ngrams")
"""Without a layer: they average the vectors of words."""
STACKED = [name for name in CASES if name not in FLAT]


def with_dropout(job: TrainingJob, share: float = 0.2) -> TrainingJob:
    for module in job.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
    return job


def gradients(job: TrainingJob, precision: str = "fp32") -> tuple[Any, dict[str, Tensor]]:
    job.model.train().zero_grad()
    scaler = torch.GradScaler("cpu", enabled=False)
    window: list[Batch] = [
        job.task.collate([job.train.sample(i, 0) for i in rows]) for rows in ((0, 1, 2), (3, 4))
    ]
    once = Gradients(job.model, job.task, replace(ALONE, precision=precision), scaler)
    sums = once.accumulate(window, [7, 8])
    found = {n: p.grad.clone() for n, p in job.model.named_parameters() if p.grad is not None}
    return sums, found


def count_calls(model: nn.Module) -> list[int]:
    """How often each layer's first norm is computed from here on, as it goes on."""
    calls: list[int] = []
    for layer in (layer for stack in stacks(model) for layer in stack):
        norm = next(m for m in layer.modules() if "Norm" in type(m).__name__)
        norm.register_forward_hook(_counting(calls, len(calls)))
        calls.append(0)
    return calls


def _counting(calls: list[int], at: int) -> Any:
    def hook(*_: object) -> None:
        calls[at] += 1

    return hook


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", STACKED)
def test_layers_computed_twice_have_the_same_gradients_to_the_bit(
    make_job: MakeJob, name: str, precision: str
) -> None:
    """With dropout, for every kind that has layers."""
    job = with_dropout(make_job(name))
    names = list(job.model.state_dict())
    sums, expected = gradients(job, precision)
    layers = Checkpointing(job.model)
    assert list(job.model.state_dict()) == names
    found_sums, found = gradients(job, precision)
    assert found_sums == sums
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=0, atol=0, msg=parameter)
    layers.remove()
    assert not any("forward" in vars(module) for module in job.model.modules())


def test_a_layer_is_computed_again_and_keeps_nothing_but_its_input(make_job: MakeJob) -> None:
    job = make_job("causal_lm_rows")
    calls = count_calls(job.model)
    kept = [_saved_bytes(job)]
    assert set(calls) == {2}  # two micro-batches
    layers = Checkpointing(job.model)
    kept.append(_saved_bytes(job))
    assert set(calls) == {2 + 2 * 2}
    assert kept[1] < 0.5 * kept[0]
    layers.remove()
    with torch.no_grad():
        job.task.loss(job.model, job.task.collate([job.train.sample(0, 0)]))
    assert set(calls) == {7}


def _saved_bytes(job: TrainingJob) -> int:
    """What the graphs of two micro-batches keep beside the parameters."""
    weights = {p.untyped_storage().data_ptr() for p in job.model.parameters()}
    sizes: dict[int, int] = {}
    held = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # so that no other one gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        gradients(job)
    return sum(sizes.values())


def test_a_frozen_encoder_is_computed_once_and_a_frozen_decoder_twice(make_job: MakeJob) -> None:
    """Of the encoder nothing has a gradient; through the decoder those of the projector pass."""
    job = make_job("vlm")
    parts = dict(job.model.named_children())
    for name in ("image_encoder", "decoder"):
        parts[name].requires_grad_(False).eval()
    encoder, decoder = count_calls(parts["image_encoder"]), count_calls(parts["decoder"])
    Checkpointing(job.model)
    _, found = gradients(job)
    assert {name.split(".")[0] for name in found} == {"projector"}
    assert set(encoder) == {2}
    assert set(decoder) == {4}


@pytest.mark.parametrize("method", [{}, {"method": "dora"}, {"quantize": "nf4"}], ids=str)
def test_adapters_on_a_frozen_decoder_have_the_same_gradients(
    make_job: MakeJob, method: dict[str, Any]
) -> None:
    """Also in its first layer, whose input has none."""
    job = make_job("causal_lm_rows")
    configs = {"decoder": AdapterConfig.model_validate({"rank": 2, "dropout": 0.2} | method)}
    attach_adapters(job.model, configs, seed=0, compute_dtype=torch.float32)
    _, expected = gradients(job)
    assert any(".layers.0." in name for name in expected)
    Checkpointing(job.model)
    _, found = gradients(job)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=0, atol=0, msg=parameter)


@pytest.mark.parametrize("name", ["vlm", "align_image"])
def test_a_training_and_its_resume_end_in_the_same_bits(
    make_job: MakeJob, tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    train(with_dropout(make_job(name)), settings(), Path("plain"), Processes())
    job = with_dropout(make_job(name))
    train(job, settings(gradient_checkpointing=True), Path("twice"), Processes())
    plain, twice = read_digests(Path("plain")), read_digests(Path("twice"))
    del plain["config.json"], twice["config.json"]
    assert plain == twice
    assert not any("forward" in vars(module) for module in job.model.modules())


@pytest.mark.parametrize("sharded", [False, True])
def test_processes_and_sharded_layers_compute_twice_as_well(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any, sharded: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    digests = []
    for out, twice in (("plain", False), ("twice", True)):
        job = with_dropout(make_job("vlm"))
        run = settings(processes=2, shard_layers=sharded, gradient_checkpointing=twice)
        assert together(lambda p, j=job, r=run, o=out: train(j, r, Path(o), p)) == [
            "led",
            "followed",
        ]
        digests.append(read_digests(Path(out)))
        del digests[-1]["config.json"]
    assert digests[0] == digests[1]


def test_a_model_without_layers_is_refused(toy: Any, make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.gradient_checkpointing: this model has no"):
        Checkpointing(make_job("text_words").model)


def test_layers_with_batch_norm_are_computed_once() -> None:
    """Their moving statistics would move twice."""

    def layer(norm: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 3), norm)

    normed = nn.Sequential(*(layer(nn.BatchNorm1d(3)) for _ in range(2)))
    with pytest.raises(ConfigError, match="without batch norm"):
        Checkpointing(nn.Sequential(normed, nn.Linear(3, 1)))
    plain = nn.Sequential(*(layer(nn.LayerNorm(3)) for _ in range(2)))
    model = nn.ModuleDict({"normed": normed, "plain": plain})
    Checkpointing(model)
    assert [name for name, m in model.named_modules() if "forward" in vars(m)] == [
        "plain.0",
        "plain.1",
    ]
