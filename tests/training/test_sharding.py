"""Layers spread over the processes train as whole ones do."""

import copy
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from plumbline.batch import Batch
from plumbline.errors import ConfigError, TrainingError
from plumbline.files import read_json
from plumbline.loading.loader import Loader
from plumbline.models.weights import is_spread, local, read_tensors, whole
from plumbline.training.config import TrainerConfig
from plumbline.training.evaluation import evaluate_loss
from plumbline.training.optim import build_optimizer
from plumbline.training.processes import Processes
from plumbline.training.sharding import ShardedLayers
from tests.order import epoch_order
from tests.tiny import CASES
from tests.training.together import (
    ALONE,
    MakeJob,
    Together,
    ended,
    exact,
    failing,
    gradients_of,
    settings,
    states,
    train,
)

FLAT = ("text_words", "align_ngrams")
"""Without a layer: they average the vectors of words."""
STACKED = [name for name in CASES if name not in FLAT]
SHARDED = settings(processes=2, shard_layers=True)


def spread(processes: Processes) -> Processes:
    return replace(processes, sharded=True)


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("name", STACKED)
def test_sharded_layers_have_the_gradients_of_whole_ones(
    make_job: MakeJob, together: Together, name: str, micro_batches: int
) -> None:
    """Also where a process has no sample of a micro-batch, and stands in for one."""
    job = exact(make_job(name))
    sums, expected = gradients_of(job, Processes(), micro_batches)

    def of_sharded(processes: Processes) -> Any:
        ShardedLayers(job.model, spread(processes))
        sums, gradients = gradients_of(job, spread(processes), micro_batches)
        number = sum(map(is_spread, gradients.values()))
        return sums, {name: whole(g) for name, g in gradients.items()}, number

    for found, gradients, number in together(of_sharded):
        assert number > 0
        assert found.count == sums.count > 0
        assert found.total == pytest.approx(sums.total, rel=1e-6)
        assert [count for _, count in found.micro] == [count for _, count in sums.micro]
        # A layer has a gradient in all processes or none; one that is not asked for is zero.
        assert gradients.keys() >= expected.keys()
        limit = 1e-9 * max(float(gradient.abs().max()) for gradient in expected.values())
        for parameter, gradient in gradients.items():
            wanted = expected.get(parameter, torch.zeros_like(gradient))
            torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=limit)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", ["vlm", "masked_lm_rows", "seq2seq", "text", "align_image"])
def test_a_sharded_training_ends_as_one_in_one_process(
    make_job: MakeJob,
    together: Together,
    tmp_path: Path,
    monkeypatch: Any,
    name: str,
    optimizer: str,
) -> None:
    """With clipping, best weights, a frozen part, and a validation batch of a single sample."""
    monkeypatch.chdir(tmp_path)
    optim = {"optim": {"lr": 0.01, "name": optimizer}, "max_grad_norm": 0.1}
    frozen = ["image_encoder"] if name == "vlm" else []
    run = settings(batch_size=6, freeze=frozen, **optim)
    train(exact(make_job(name)), run, Path("one"), Processes())
    job = exact(make_job(name))
    run = settings(batch_size=6, freeze=frozen, processes=2, shard_layers=True, **optim)
    assert together(lambda p: train(job, run, Path("two"), p)) == ["led", "followed"]
    one, two = (read_json(Path(folder) / "metrics.json") for folder in ("one", "two"))
    for figure in ("optimizer_steps", "samples", "targets", "parameters"):
        assert two[figure] == one[figure]
    assert two["frozen_tensors_unchanged"] == one["frozen_tensors_unchanged"]
    assert bool(one["frozen_tensors_unchanged"]) == bool(frozen)
    assert two["final_train_loss"] == pytest.approx(one["final_train_loss"], rel=1e-6)
    assert two["best"]["value"] == pytest.approx(one["best"]["value"], rel=1e-6)
    expected, found = (read_tensors(Path(f) / "model.safetensors") for f in ("one", "two"))
    assert found.keys() == expected.keys()
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, rtol=1e-6, atol=1e-8)
    assert {p.name for p in Path("one").iterdir()} == {p.name for p in Path("two").iterdir()}


def test_muon_trains_sharded_matrices_as_whole_ones(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    """Its orthogonal matrices are made in bfloat16, so they agree to its digits."""
    monkeypatch.chdir(tmp_path)
    optim = {"optim": {"lr": 0.01, "name": "muon"}, "epochs": 1}
    train(make_job("vlm"), settings(**optim), Path("one"), Processes())
    job = make_job("vlm")
    run = settings(processes=2, shard_layers=True, **optim)
    assert together(lambda p: train(job, run, Path("two"), p)) == ["led", "followed"]
    one, two = (read_json(Path(f) / "metrics.json")["final_train_loss"] for f in ("one", "two"))
    assert two == pytest.approx(one, rel=0.01)


def test_a_process_holds_its_part_of_weights_gradients_and_moments(
    make_job: MakeJob, together: Together
) -> None:
    job = make_job("masked_lm_rows")
    layers = sum(p.numel() for n, p in job.model.named_parameters() if ".layer." in n)
    config = TrainerConfig.model_validate({"optim": {"lr": 0.01}}).optim

    def held(processes: Processes) -> list[int]:
        ShardedLayers(job.model, spread(processes))
        optimizer = build_optimizer(job.model, config)
        gradients_of(job, spread(processes), 1)
        optimizer.step()
        parts = [p for p in job.model.parameters() if is_spread(p)]
        moments = [optimizer.state[p]["exp_avg"] for p in parts]
        gradients = [p.grad for p in parts if p.grad is not None]
        return [sum(local(t).numel() for t in some) for some in (parts, gradients, moments)]

    first, second = together(held)
    assert layers > 0
    assert [a + b for a, b in zip(first, second, strict=True)] == [layers] * 3
    assert max(first + second) < 0.6 * layers


def test_one_layer_at_a_time_is_whole(make_job: MakeJob, together: Together) -> None:
    job = make_job("seq2seq")

    def gathered(processes: Processes) -> tuple[list[int], int]:
        stacks = [m for m in job.model.modules() if isinstance(m, nn.ModuleList)]
        ShardedLayers(job.model, spread(processes))
        layers = [layer for stack in stacks for layer in stack if isinstance(layer, FSDPModule)]
        counts: list[int] = []

        def whole_layers() -> int:
            return sum(not is_spread(next(layer.parameters())) for layer in layers)

        for layer in layers:
            layer.register_forward_pre_hook(lambda *_: counts.append(whole_layers()))
        loader = Loader(job.train, job.task.collate, SHARDED.train.loader, seed=0, shuffle=False)
        machine = replace(ALONE, processes=spread(processes))
        evaluate_loss(job.model, job.task, loader.batches(0), machine)
        after = [whole_layers()]
        gradients_of(job, spread(processes), 3)
        return counts, after[0] + whole_layers()

    for counts, left in together(gathered):
        assert len(counts) > 10
        assert set(counts) == {1}
        assert left == 0


def test_the_joined_model_is_the_plain_one(make_job: MakeJob, together: Together) -> None:
    job = make_job("seq2seq")
    expected = {name: t.clone() for name, t in job.model.state_dict().items()}
    kinds = [type(module) for module in job.model.modules()]
    frozen = [name for name, p in job.model.named_parameters() if not p.requires_grad]

    def joined(processes: Processes) -> Any:
        model = copy.deepcopy(job.model)
        ShardedLayers(model, spread(processes)).join()
        found = [name for name, p in model.named_parameters() if not p.requires_grad]
        return model.state_dict(), [type(m) for m in model.modules()] == kinds, found

    for state, same_kinds, still_frozen in together(joined):
        assert same_kinds
        assert still_frozen == frozen
        assert list(state) == list(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_sharded_training_that_was_ended_goes_on_to_the_same_bits(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any, how: signal.Signals
) -> None:
    """FP22: neither a hang nor half a state."""
    monkeypatch.chdir(tmp_path)
    run = settings(processes=2, shard_layers=True, epochs=3, checkpoint={"every_steps": 1})
    whole_job = make_job("text")
    together(lambda p: train(whole_job, run, Path("whole"), p))

    parted = make_job("text")
    main, other = together(lambda p: ended(parted, run, p, 6, how))
    if how == signal.SIGTERM:
        assert [main.code, other.code] == [143, 143]
    else:
        assert other is None
        assert "another process of this training is gone" in str(main)
    assert len(states(Path(".ckpt"))) == 1
    again = make_job("text")
    assert together(lambda p: train(again, run, Path("parted"), p)) == ["led", "followed"]
    digests = [read_json(Path(folder) / "digests.json") for folder in ("whole", "parted")]
    assert digests[0] == digests[1]


def test_a_process_that_dies_while_validating_ends_the_other_with_one_line(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make_job("text")
    loss = job.task.loss

    def dying(processes: Processes) -> str:
        def killing(model: nn.Module, batch: Batch) -> Any:
            if processes.rank == 1 and not model.training:
                os.kill(os.getpid(), signal.SIGKILL)
            return loss(model, batch)

        broken = replace(job, task=replace(job.task, loss=killing), validation_task=None)
        return train(broken, SHARDED, Path("out"), processes)

    main, other = together(dying)
    assert other is None
    assert isinstance(main, TrainingError)
    assert "another process of this training is gone" in str(main)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_odd_batch_ends_all_and_is_named_by_the_process_that_has_it(
    make_job: MakeJob, together: Together, tmp_path: Path, monkeypatch: Any, rank: int
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make_job("text")
    loader = Loader(job.train, job.task.collate, SHARDED.train.loader, seed=0, shuffle=True)
    order = epoch_order(loader, 0)
    sample = order[0] if rank == 0 else order[SHARDED.train.loader.batch_size - 1]

    def told(processes: Processes) -> tuple[str, list[str]]:
        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("plumbline.training.run").addHandler(handler)
        try:
            return train(failing(job, processes, sample), SHARDED, Path("out"), processes), said
        except (TrainingError, SystemExit) as error:
            return str(error), said

    (main, _), (code, other) = together(told)
    fault, gone = f"sample {sample} is odd; samples [", "another process of this training is gone"
    assert (fault if rank == 0 else gone) in main
    assert code == "1"
    assert len(other) == 1
    assert other[0].startswith("process 1: ")
    assert (fault if rank == 1 else gone) in other[0]
    assert not Path("out").exists()


class Nested(nn.Module):
    """Rows in a row, and a scale of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        rows = [nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]) for _ in range(2)]
        self.blocks = nn.ModuleList(rows)
        self.scales = nn.ModuleList([Scale(), Scale()])


class Scale(nn.Module):
    """A parameter that cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


def test_what_cannot_be_spread_stays_whole(together: Together) -> None:
    def spread_names(processes: Processes) -> list[str]:
        model = Nested()
        ShardedLayers(model, spread(processes))
        return [name for name, p in model.named_parameters() if is_spread(p)]

    for names in together(spread_names):
        assert len(names) == 8
        assert all(name.startswith("blocks.") for name in names)


class Skipping(nn.Module):
    """A stack that leaves out layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.layerdrop = nn.ModuleList([nn.Linear(2, 2)]), 0.1


@pytest.mark.parametrize(
    ("model", "words"),
    [(nn.Linear(2, 2), "no stack of layers"), (Skipping(), r"layerdrop.*set it to 0")],
)
def test_a_model_that_cannot_be_sharded_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.shard_layers: .*{words}"):
        ShardedLayers(model, Processes(0, 2, torch.device("cpu"), sharded=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs processes above 1"),
        ({"processes": 2, "precision": "fp16"}, "not fp16"),
        ({"processes": 2, "failing_batch": "skip"}, "contradicts failing_batch"),
    ],
)
def test_settings_that_contradict_it_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainerConfig.model_validate({"shard_layers": True, **settings})
