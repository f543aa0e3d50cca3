"""Gradients are summed while the backward pass goes on, to the bits of a sum after it."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plumbline.batch import Batch, LossSum
from plumbline.loading.keys import Share
from plumbline.models.weights import is_spread
from plumbline.training import gradient_sum
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.adapters import attach_adapters
from plumbline.training.gradient_sum import GradientSum
from plumbline.training.processes import PeerError, Processes, UntoldError
from plumbline.training.task import Task
from plumbline.training.window import Gradients
from tests.training.together import ALONE, CPU, MakeJob, Together, exact, gradients_of

DEPTH, WIDTH, SAMPLES = 5, 3, 6


class Deep(nn.Module):
    """A chain of layers of which the first may be left out, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        self.idle = nn.Linear(WIDTH, WIDTH)
        self.double()

    def forward(self, x: Tensor, *, whole: bool = True) -> Tensor:
        hidden = self.first(x) if whole else x
        for layer in self.layers:
            hidden = layer(hidden).tanh()
        return hidden


def squares(model: nn.Module, batch: Batch) -> LossSum:
    x = batch["x"]
    return LossSum(model(x).square().sum(), torch.tensor(len(x)))


TASK = Task(name="deep", collate=lambda samples: {}, loss=squares)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer each: with its weight and its bias in float64."""
    monkeypatch.setattr(gradient_sum, "BUCKET_BYTES", 8 * WIDTH * (WIDTH + 1))


def window(share: Share, length: int = 2) -> list[Batch]:
    """The share of micro-batches, each of other points [samples, width]."""
    random = torch.Generator().manual_seed(1)
    batches = [
        torch.randn(SAMPLES, WIDTH, generator=random, dtype=torch.float64) for _ in range(length)
    ]
    mine = [torch.from_numpy(share.of(points.numpy())) for points in batches]
    return [{"x": x, "sample_index": torch.arange(len(x))} for x in mine]


def gradients(model: nn.Module, processes: Processes, task: Task = TASK) -> Gradients:
    scaler = torch.GradScaler("cpu", enabled=False)
    return Gradients(model, task, replace(ALONE, processes=processes), scaler)


def found(model: nn.Module) -> dict[str, Tensor]:
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: gradient.clone() for name, gradient in named.items()}


def summed_after(model: nn.Module, processes: Processes, task: Task = TASK) -> dict[str, Tensor]:
    """The reference: passes of this process alone, and then one sum for each gradient."""
    gradients(model, Processes(), task).accumulate(window(processes.share), [0, 1])
    for parameter in model.parameters():
        present = torch.tensor(float(parameter.grad is not None))
        torch.distributed.all_reduce(present)
        if present:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.distributed.all_reduce(gradient)
            parameter.grad = gradient
    expected = found(model)
    model.zero_grad()
    return expected


def test_what_is_full_travels_while_the_last_backward_pass_goes_on(
    together: Together, monkeypatch: Any
) -> None:
    """And nothing before it: in the order of the layers from behind, the same in each process."""

    def events(processes: Processes) -> list[str]:
        model, told = Deep(), []
        begin = Processes.begin_sum

        def telling(of: Processes, tensor: Tensor) -> Any:
            told.append("send")
            return begin(of, tensor)

        def loss(model: nn.Module, batch: Batch) -> LossSum:
            told.append("forward")
            return squares(model, batch)

        monkeypatch.setattr(Processes, "begin_sum", telling)
        for number, layer in enumerate(model.layers):
            layer.weight.register_hook(lambda _, number=number: told.append(f"layer {number}"))
        model.first.weight.register_hook(lambda _: told.append("first layer"))
        task = replace(TASK, loss=loss)
        gradients(model, processes, task).accumulate(window(processes.share), [0, 1])
        return told

    first, second = together(events)
    layers = [f"layer {number}" for number in reversed(range(DEPTH))]
    # The bucket of the layer that nothing uses waits for no gradient: it goes with the first one,
    # of the last bias. Each other goes once the weight, which comes after its bias, is there.
    going = [event for layer in (*layers, "first layer") for event in (layer, "send")]
    assert first == ["forward", *layers, "first layer", "forward", "send", *going]
    assert second == first


@pytest.mark.parametrize("bucket_bytes", [1, 8 * WIDTH * (WIDTH + 1), 10**9])
def test_sums_are_those_made_after_the_pass_to_the_bit(
    together: Together, monkeypatch: Any, bucket_bytes: int
) -> None:
    monkeypatch.setattr(gradient_sum, "BUCKET_BYTES", bucket_bytes)

    def both(processes: Processes) -> Any:
        model = Deep()
        expected = summed_after(model, processes)
        gradients(model, processes).accumulate(window(processes.share), [0, 1])
        return found(model), expected

    for sums, expected in together(both):
        assert sums.keys() == expected.keys()
        assert "idle.weight" not in sums
        for name, total in expected.items():
            assert torch.equal(sums[name], total), name


@pytest.mark.parametrize("name", ["vlm", "align_image", "seq2seq"])
def test_three_processes_repeat_their_bits_and_find_the_gradients_of_one(
    make_job: MakeJob, together: Together, name: str
) -> None:
    job = exact(make_job(name))
    sums, expected = gradients_of(job, Processes(), 3)
    once, again = (together(lambda p: gradients_of(job, p, 3), count=3) for _ in range(2))
    limit = 1e-9 * max(float(gradient.abs().max()) for gradient in expected.values())
    for (these, first), (_, second) in zip(once, again, strict=True):
        assert these.count == sums.count > 0
        assert first.keys() == second.keys() == expected.keys()
        for parameter, gradient in expected.items():
            assert torch.equal(first[parameter], second[parameter])
            torch.testing.assert_close(first[parameter], gradient, rtol=1e-6, atol=limit)


def of_one_process(model: nn.Module, batch: Batch) -> LossSum:
    """The first layer works in the process that has point 0 of the last micro-batch alone."""
    x = batch["x"]
    total = model(x, whole=bool((x == window(Share())[-1]["x"][0]).all(dim=1).any()))
    return LossSum(total.square().sum(), torch.tensor(len(x)))


def test_a_parameter_that_one_process_alone_uses_has_its_gradient_in_all(
    together: Together,
) -> None:
    task = replace(TASK, loss=of_one_process)

    def both(processes: Processes) -> Any:
        model = Deep()
        expected = summed_after(model, processes, task)
        gradients(model, processes, task).accumulate(window(processes.share), [0, 1])
        return found(model), expected

    results = together(both)
    for sums, expected in results:
        assert sums.keys() == expected.keys()
        assert sums["first.weight"].abs().sum() > 0
        for name, total in results[0][0].items():
            assert torch.equal(sums[name], total)
            assert torch.equal(expected[name], total)


class Nested(Deep):
    """A backward pass within layers, one of which is used twice: torch's reentrant checkpoints."""

    def forward(self, x: Tensor, *, whole: bool = True) -> Tensor:
        hidden = self.first(x)
        for layer in (self.layers[0], self.layers[1], self.layers[0]):
            hidden = checkpoint(layer, hidden, use_reentrant=True).tanh()
        last: Tensor = self.layers[-1](hidden)
        return last


def test_a_gradient_that_comes_when_its_bucket_has_gone_is_added(
    together: Together, monkeypatch: Any
) -> None:
    """The graph does not show that it will come."""

    def both(processes: Processes) -> Any:
        model, sent = Nested(), []
        expected = summed_after(model, processes)
        begin = Processes.begin_sum
        monkeypatch.setattr(
            Processes, "begin_sum", lambda of, tensor: (sent.append(tensor), begin(of, tensor))[1]
        )
        gradients(model, processes).accumulate(window(processes.share), [0, 1])
        return found(model), expected, len(sent)

    for sums, expected, sent in together(both):
        assert sent == 2 * (DEPTH + 2)  # a second round of all buckets: some did come late
        assert sums.keys() == expected.keys()
        for name, total in expected.items():
            torch.testing.assert_close(sums[name], total, rtol=1e-12, atol=1e-15)


def test_a_compiled_pass_is_made_once_and_sends_its_gradients(together: Together) -> None:
    def both(processes: Processes) -> Any:
        model = Deep()
        torch._dynamo.reset()
        compiled: Any = torch.compile(squares, backend="aot_eager", dynamic=False)
        task = replace(TASK, loss=compiled)
        expected = summed_after(model, processes)
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for _ in range(2):
            model.zero_grad()
            gradients(model, processes, task).accumulate(window(processes.share), [0, 1])
        return (
            found(model),
            expected,
            torch._dynamo.utils.counters["stats"]["unique_graphs"] - before,
        )

    for sums, expected, programs in together(both):
        assert programs == 1
        assert sums.keys() == expected.keys()
        for name, total in expected.items():
            torch.testing.assert_close(sums[name], total)


def test_adapters_over_a_frozen_part_have_the_gradients_of_one_process(
    make_job: MakeJob, together: Together
) -> None:
    job = exact(make_job("causal_lm_rows"))
    adapter = {"decoder": AdapterConfig(rank=2)}
    attach_adapters(job.model, adapter, seed=0, compute_dtype=torch.float32)
    job.model.double()
    _, expected = gradients_of(job, Processes(), 2)
    assert expected
    assert all("lora" in name for name in expected)
    for _, sums in together(lambda p: gradients_of(job, p, 2)):
        assert sums.keys() == expected.keys()
        for name, total in expected.items():
            torch.testing.assert_close(sums[name], total, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("layer", [None, 2])
def test_processes_stay_in_step_where_one_fails(
    together: Together, rank: int, micro_batch: int, layer: int | None
) -> None:
    """In the loss or amid the backward pass; what they sum afterwards is right."""

    def outcome(processes: Processes) -> Any:
        model, passes = Deep(), itertools.count()

        def odd(*_: Tensor) -> None:
            raise ValueError("odd")

        def loss(model: nn.Module, batch: Batch) -> LossSum:
            fails = next(passes) == micro_batch and processes.rank == rank
            hook = None
            if fails and layer is None:
                odd()
            if fails:
                hook = model.layers[layer].weight.register_hook(odd)
                hooks.append(hook)
            return squares(model, batch)

        hooks: list[Any] = []
        broken = gradients(model, processes, replace(TASK, loss=loss))
        with pytest.raises((ValueError, PeerError)) as error:
            broken.accumulate(window(processes.share), [0, 1])
        for hook in hooks:
            hook.remove()
        model.zero_grad()
        expected = summed_after(model, processes)
        gradients(model, processes).accumulate(window(processes.share), [0, 1])
        same = all(torch.equal(expected[name], total) for name, total in found(model).items())
        return type(error.value), same and len(expected) == 2 * (DEPTH + 1)

    results = together(outcome)
    assert [kind for kind, _ in results] == [
        ValueError if own == rank else PeerError for own in range(2)
    ]
    assert all(same for _, same in results)


def test_a_message_that_does_not_fit_into_memory_ends_its_process_with_one_line(
    monkeypatch: Any,
) -> None:
    """The others wait for that very message, and nothing else can be agreed on."""

    def full(tensors: Sequence[Tensor]) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    over_all = GradientSum(Deep(), Processes(1, 2, CPU))
    monkeypatch.setattr(gradient_sum.torch, "cat", full)
    words = r"process 1 cannot send .*can't allocate.*lower"
    with pytest.raises(UntoldError, match=words), over_all.around():
        pass


def test_one_process_keeps_its_gradients_as_they_are() -> None:
    model = Deep()
    loss = model(torch.ones(2, WIDTH, dtype=torch.float64)).sum()
    over_all = GradientSum(model, Processes())
    with over_all.around(), over_all.during([loss]):
        loss.backward()
    before = {name: p.grad for name, p in model.named_parameters()}
    over_all.finish()
    assert before["first.weight"] is not None
    assert all(p.grad is before[name] for name, p in model.named_parameters())
    assert not any(is_spread(p) for p in model.parameters())
