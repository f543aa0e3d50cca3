"""Compiled passes give the losses and gradients of plain ones, and the same bits in any run."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum
from plumbline.files import read_digests
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.compilation import PROGRAMS, Compilation
from plumbline.training.compile_config import CompileConfig
from plumbline.training.launch import decide_machine
from plumbline.training.processes import Processes
from plumbline.training.run import train_to_folder
from plumbline.training.task import Task, TrainingJob
from plumbline.training.window import Gradients
from tests.tiny import CASES
from tests.training.conftest import TASK, WIDTH, squared_error
from tests.training.together import ALONE, MakeJob, exact, settings, train

FEW = ("vlm", "causal_lm_rows")
"""What `make test` compiles; a program takes seconds to be made."""
STEPS = 50
MADE = 4
"""Programs of a form at most, those of short batches among them; the docs say so."""
ON_GPU = (*FEW, "causal_lm_stream", "image", "align_image")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def all_kinds() -> list[Any]:
    return [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


def compilation(mode: str = "default", **config: Any) -> Compilation:
    return Compilation(mode, CompileConfig(**config), Processes())


def batches_of(job: TrainingJob) -> list[Batch]:
    """Of unequal lengths, where the case has lengths."""
    return [job.task.collate([job.train.sample(at + i, 0) for i in range(3)]) for at in (0, 3, 6)]


def gradients(job: TrainingJob, compiling: Compilation) -> tuple[list[Any], dict[str, Tensor]]:
    """The sums of some batches, and the gradients of all of them together."""
    job.model.train().zero_grad()
    batches = batches_of(job)
    scaler = torch.GradScaler("cpu", enabled=False)
    task = compiling.apply(job.model, job.task)
    compiling.see(batches, [])
    with compiling.running():
        once = Gradients(job.model, task, ALONE, scaler)
        sums = [once.accumulate([batch], [7]) for batch in batches]
    found = {n: p.grad.clone() for n, p in job.model.named_parameters() if p.grad is not None}
    return sums, found


def assert_equal_gradients(job: TrainingJob, compiling: Compilation) -> None:
    sums, expected = gradients(job, compilation("none"))
    found_sums, found = gradients(job, compiling)
    for one, other in zip(found_sums, sums, strict=True):
        assert one.count == other.count
        torch.testing.assert_close(one.total, other.total, rtol=1e-5, atol=1e-6)
    assert found.keys() == expected.keys()
    for parameter in expected:
        torch.testing.assert_close(found[parameter], expected[parameter], rtol=1e-4, atol=1e-5)
    assert not compiling.failure


@pytest.mark.parametrize("name", all_kinds())
def test_a_compiled_task_gives_the_losses_and_gradients_of_a_plain_one(
    make_job: MakeJob, name: str
) -> None:
    compiling = compilation()
    assert_equal_gradients(make_job(name), compiling)
    # Lengths stay open, so that all batches share the programs.
    facts = compiling.facts()["compile"]
    assert isinstance(facts, dict)
    assert 1 <= facts["programs"] <= PROGRAMS


def test_compiled_layers_give_the_same_and_are_plain_again_after(make_job: MakeJob) -> None:
    job = make_job("vlm")
    names = list(job.model.state_dict())
    assert_equal_gradients(job, compilation(unit="layers"))
    assert list(job.model.state_dict()) == names
    assert all(module._compiled_call_impl is None for module in job.model.modules())


class Stacked(nn.Module):
    """A model with layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.head = nn.Linear(WIDTH, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(x)
        return out


def test_layers_validate_uncompiled(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As all else that does not train: it would make programs of its own, and use them up."""
    seen: list[bool] = []

    def compiles(layer: nn.Module, **options: Any) -> None:
        layer._compiled_call_impl = layer._call_impl

    def compiled(model: nn.Module) -> bool:
        return all(each._compiled_call_impl is not None for each in model.layers)

    def measure(model: nn.Module) -> dict[str, float]:
        seen.append(compiled(model))
        return {"score": 1.0}

    def loss(model: nn.Module, batch: Batch) -> LossSum:
        seen.append(compiled(model) if model.training else not compiled(model))
        return squared_error(model, batch)

    monkeypatch.setattr(nn.Module, "compile", compiles)
    task = replace(TASK, loss=loss, validation_metrics=measure)
    layers = {"unit": "layers"}
    toy.trainer(Stacked(), task=task, compiled=True, compile=layers, epochs=2).fit()
    assert seen.count(False) == 2  # the metrics of two validations
    assert seen[-1] is False


def asked(mode: str, unit: str = "auto", **trainer: Any) -> Any:
    compiling = {"mode": mode, "unit": unit}
    return settings(batch_size=4, compile=compiling, checkpoint={"every_steps": 1}, **trainer)


class Killed(BaseException):
    """Stands for the death of the process."""


def trained(job: TrainingJob, mode: str) -> tuple[list[float], list[int]]:
    """The loss of each of 50 steps in fp32, and how many programs there were after each."""
    losses: list[float] = []
    programs: list[int] = []
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def on_log(step: int, values: Mapping[str, float]) -> None:
        losses.append(values["train/loss"])
        programs.append(int(torch._dynamo.utils.counters["stats"]["unique_graphs"]))

    limits = {"max_steps": STEPS, "epochs": 100, "validate_every_epochs": 0, "optim": {"lr": 1e-3}}
    config = settings(batch_size=4, compile={"mode": mode}, **limits)
    machine = decide_machine(config)
    done = train_to_folder("test", config, job, machine, Path(mode), on_log=on_log)
    compiled = done.facts.get("compile", {})
    assert isinstance(compiled, dict)
    assert "failure" not in compiled
    return losses, programs


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_losses_of_fifty_steps_are_those_of_a_plain_training(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, none = trained(make_job(name), "none")
    compiled, programs = trained(make_job(name), "default")
    assert none[-1] == 0
    assert len(plain) == len(compiled) == STEPS
    assert max(abs(a - b) for a, b in zip(plain, compiled, strict=True)) <= 1e-4
    # All are made before the first step, of the sizes that the loader foresees.
    assert 1 <= programs[0] <= MADE
    assert programs[-1] == programs[0], "recompiled"


def dying(job: TrainingJob, after: int) -> TrainingJob:
    """The job, killed when its loader makes a certain batch."""
    made = iter(range(10**6))

    def killing(collate: Callable[..., Batch], samples: Sequence[Any]) -> Batch:
        if next(made) == after:
            raise Killed
        return collate(samples)

    # Of the two ways of making batches the device decides on one.
    plain = partial(killing, job.task.collate)
    raw = job.task.collate_raw or job.task.collate
    return replace(job, task=replace(job.task, collate=plain, collate_raw=partial(killing, raw)))


def kill_and_resume(make_job: MakeJob, name: str, **trainer: Any) -> list[dict[str, str]]:
    """Digests of trainings that were never killed, once and again, and of one that was."""
    found = []
    for out in ("whole", "again"):
        torch._dynamo.reset()
        train(make_job(name), asked("default", **trainer), Path(out), Processes())
        found.append(read_digests(Path(out)))
    torch._dynamo.reset()
    # The loader makes some batches for the programs before the first step.
    with pytest.raises(Killed):
        train(dying(make_job(name), 15), asked("default", **trainer), Path("parted"), Processes())
    assert list(Path(".ckpt").rglob("step-*"))
    torch._dynamo.reset()
    train(make_job(name), asked("default", workers=2, **trainer), Path("parted"), Processes())
    found.append(read_digests(Path("parted")))
    for digests in found:
        del digests["config.json"]  # the settings, in which numbers of workers differ
    return found


@pytest.mark.parametrize("name", [pytest.param("vlm", marks=pytest.mark.slow), "causal_lm_rows"])
def test_a_compiled_training_killed_in_an_epoch_ends_in_the_same_bits(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What a program is made for is the same in both, whatever batch comes first."""
    monkeypatch.chdir(tmp_path)
    whole, again, parted = kill_and_resume(make_job, name)
    assert again == whole
    assert parted == whole


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "name", ["vlm", "causal_lm_stream", "causal_lm_rows", "image", "align_image"]
)
def test_so_does_one_on_a_gpu_in_every_precision(
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    precision: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    unit = "layers" if name == "vlm" else "whole"
    before = torch.are_deterministic_algorithms_enabled()
    try:
        whole, again, parted = kill_and_resume(
            make_job, name, device="cuda", precision=precision, unit=unit
        )
    finally:
        torch.use_deterministic_algorithms(before)
    assert again == whole
    assert parted == whole


def break_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program fails when it is called first, as one does that the compiler cannot make."""

    def fails(plain: Any, **options: Any) -> Callable[..., Any]:
        def program(*inputs: Any) -> Any:
            raise torch._dynamo.exc.InternalTorchDynamoError("no such operation")

        return program

    monkeypatch.setattr(torch, "compile", fails)


def test_what_cannot_be_compiled_trains_uncompiled_to_the_same_bits(
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    train(make_job("image"), asked("none"), Path("plain"), Processes())
    break_compiler(monkeypatch)
    with caplog.at_level(logging.WARNING):
        train(make_job("image"), asked("default"), Path("failed"), Processes())
    said = [r.message for r in caplog.records if r.message.startswith("trainer.compile")]
    assert said == [
        "trainer.compile: goes on uncompiled, after InternalTorchDynamoError: no such operation"
    ]
    same = {"model.safetensors", "train.csv", "micro.csv", "val.csv"}
    plain, failed = read_digests(Path("plain")), read_digests(Path("failed"))
    assert {name: failed[name] for name in same} == {name: plain[name] for name in same}


def test_a_program_that_fails_in_an_epoch_is_given_up_and_its_step_made_again(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(make_job("image"), asked("none"), Path("plain"), Processes())
    calls = iter(range(10**6))

    def fails(plain: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def program(model: nn.Module, batch: Batch) -> Any:
            if next(calls) == 5:
                raise torch._dynamo.exc.InternalTorchDynamoError("no such size")
            return plain(model, batch)

        return program

    monkeypatch.setattr(torch, "compile", fails)
    train(make_job("image"), asked("default"), Path("failed"), Processes())
    assert next(calls) == 6
    plain, failed = read_digests(Path("plain")), read_digests(Path("failed"))
    assert failed["model.safetensors"] == plain["model.safetensors"]
    assert failed["train.csv"] == plain["train.csv"]


def replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each call of a program spoil what the last one has given, as a CUDA graph's run does.

    So it does with the gradients that a backward pass has put where none was.
    """
    given: list[Tensor] = []
    watched: dict[Tensor, Any] = {}

    def take_first(parameter: Tensor) -> None:
        assert parameter.grad is not None
        given.append(parameter.grad)
        watched.pop(parameter).remove()

    def spoil(model: nn.Module) -> None:
        with torch.no_grad():
            for tensor in given:
                tensor.fill_(torch.nan)
        given.clear()
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None and parameter not in watched:
                watched[parameter] = parameter.register_post_accumulate_grad_hook(take_first)

    def compiles(plain: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def program(model: nn.Module, batch: Batch) -> Any:
            spoil(model)
            found = plain(model, batch)
            outputs = found.values() if isinstance(found, dict) else (found.total, found.count)
            given.extend(o.detach() for o in outputs if o.is_floating_point())
            return found

        return program

    monkeypatch.setattr(torch, "compile", compiles)


@pytest.mark.parametrize("name", ["image", "align_image"])
def test_what_a_replayed_program_gives_is_copied_before_the_next_pass(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def added_up(mode: str) -> tuple[Any, dict[str, Tensor]]:
        job = exact(make_job(name))
        window = batches_of(job)
        compiling = compilation(mode)
        task = compiling.apply(job.model, job.task)
        compiling.see(window, [])
        job.model.train()
        machine = replace(ALONE, compile=mode)
        scaler = torch.GradScaler("cpu", enabled=False)
        sums = Gradients(job.model, task, machine, scaler).accumulate(window, [7, 8, 9])
        named = job.model.named_parameters()
        return sums, {n: p.grad for n, p in named if p.grad is not None}

    plain_sums, plain = added_up("none")
    replay(monkeypatch)
    sums, found = added_up("reduce-overhead")
    assert sums == plain_sums
    assert found.keys() == plain.keys()
    for parameter in plain:
        torch.testing.assert_close(found[parameter], plain[parameter], rtol=0, atol=0)


def test_a_run_that_goes_on_does_not_compile_what_was_given_up(
    make_toy: Callable[[], Any], killed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps behind a resume are to be those of a run that was never stopped."""
    calls = iter(range(10**6))

    def compiles(plain: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def program(model: nn.Module, batch: Batch) -> Any:
            if next(calls) == 2:
                raise torch._dynamo.exc.InternalTorchDynamoError("no such size")
            return plain(model, batch)

        return program

    monkeypatch.setattr(torch, "compile", compiles)
    toy = make_toy()
    settings = {"compiled": True, "checkpoint": {"every_steps": 1}}
    with pytest.raises(killed):
        toy.trainer(on_log=toy.killed_at(4), **settings).fit()
    assert next(calls) == 3
    result = toy.trainer(**settings).fit()
    assert next(calls) == 4  # asked here, and by nobody else
    facts = result.facts["compile"]
    assert isinstance(facts, dict)
    assert facts["failure"] == "InternalTorchDynamoError: no such size"


def test_sizes_that_differ_are_found_and_short_ends_alone_are_not_among_them() -> None:
    def batch(rows: int, seq: int) -> Batch:
        return {"ids": torch.zeros(rows, seq), "texts": {"mask": torch.zeros(rows, 7)}}

    equal = compilation()
    equal.see([batch(4, 9), batch(4, 9)], [batch(2, 9)])
    assert equal._open == set()
    unequal = compilation()
    unequal.see([batch(4, 9), batch(4, 8)], [batch(2, 9)])
    assert unequal._open == {("ids", 0), ("ids", 1), ("texts.mask", 0)}
    closed = compilation(dynamic=False)
    closed.see([batch(4, 9), batch(4, 8)], [])
    assert closed._open == set()


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Sizes of what is computed by a program from here on."""
    sizes: list[tuple[int, ...]] = []

    def compiles(plain: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def program(model: nn.Module, batch: Batch) -> Any:
            sizes.append(tuple(batch["ids"].shape))
            return plain(model, batch)

        return program

    monkeypatch.setattr(torch, "compile", compiles)
    return sizes


def test_sizes_that_nobody_foresaw_have_no_program_whatever_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the batches behind a resume would decide what is compiled, and what for."""

    def batch(rows: int, seq: int) -> Batch:
        return {"ids": torch.zeros(rows, seq)}

    def loss(model: nn.Module, batch: Batch) -> LossSum:
        return LossSum(batch["ids"].sum(), torch.tensor(1))

    def computed(compiling: Compilation, usual: list[Batch], given: list[Batch]) -> Any:
        sizes = recorded(monkeypatch)
        task = compiling.apply(nn.Linear(1, 1), Task("", lambda samples: {}, loss))
        compiling.see(usual, [batch(2, 9)])
        for each in given:
            task.loss(nn.Linear(1, 1), each)
        return sizes

    given = [batch(4, 7), batch(4, 9), batch(2, 9), batch(3, 9), batch(4, 1)]
    equal, unequal = [batch(4, 9), batch(4, 9)], [batch(4, 9), batch(4, 8)]
    assert computed(compilation(), equal, given) == [(4, 9), (2, 9)]
    assert computed(compilation(), unequal, given) == [(4, 7), (4, 9), (2, 9), (3, 9)]
    assert len(computed(compilation(dynamic=False), equal, given)) == len(given)


class Lines:
    """Samples of unequal length, of which the first are equal."""

    def __len__(self) -> int:
        return 30

    def length(self, index: int) -> int:
        return {17: 4, 25: 12}.get(index, 8)

    def sample(self, index: int, epoch: int) -> Any:
        return {"index": index, "ids": torch.zeros(self.length(index))}


def test_examples_are_of_the_longest_and_of_the_shortest_batch_too() -> None:
    def collate(samples: Sequence[Any]) -> Batch:
        return {"longest": max(len(sample["ids"]) for sample in samples)}

    one = LoaderConfig(batch_size=1)
    usual, _ = Loader(Lines(), collate, one, seed=0, shuffle=False).examples()
    assert [batch["longest"] for batch in usual] == [8, 8, 8, 12, 4]


def test_programs_are_those_of_the_size_that_a_run_goes_on_with(
    make_toy: Callable[[], Any], killed: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits is found anew where it is to be found; what is compiled for follows the state."""
    seen: list[int] = []

    def see(compiling: Compilation, usual: Sequence[Batch], short: Sequence[Batch]) -> None:
        seen.append(len(usual[0]["sample_index"]))

    monkeypatch.setattr(Compilation, "see", see)
    toy = make_toy()
    settings = {"epochs": 2, "checkpoint": {"every_steps": 1}, "compiled": True}
    with pytest.raises(killed):
        toy.trainer(on_log=toy.killed_at(2), micro_batch_size=4, **settings).fit()
    toy.trainer(micro_batch_size=2, **settings).fit()
    assert seen == [4, 4]


def test_examples_are_the_first_batches_and_those_that_may_be_short(make_job: MakeJob) -> None:
    job = make_job("image")  # 24 samples
    loader = Loader(job.train, job.task.collate, LoaderConfig(batch_size=10), seed=0, shuffle=True)
    usual, short = loader.examples(4)
    assert [len(batch["sample_index"]) for batch in usual] == [4] * 5
    assert [len(batch["sample_index"]) for batch in short] == [2, 4]
    first = next(loader.micro_batches(0, size=4))
    assert torch.equal(usual[0]["sample_index"], first[0]["sample_index"])
    assert torch.equal(short[0]["sample_index"], first[-1]["sample_index"])
