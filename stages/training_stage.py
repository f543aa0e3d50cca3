"""What the two stages that train have in common: one or several processes, record, lock, output."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from plumbline.config import fix_threads
from plumbline.files import output_lock
from plumbline.stage import Call, StageSpec, count, parse_call
from plumbline.tracking.record import record_run
from plumbline.training.launch import enter_process, rank, run_processes
from plumbline.training.machine import asks_for_gpus, check_machine
from plumbline.training.overfit_check import check_overfit
from plumbline.training.sections import TrainingConfig

if TYPE_CHECKING:
    from plumbline.training.processes import Processes

Config = TypeVar("Config", bound=TrainingConfig)


def run_training_stage(
    spec: StageSpec[Config], arguments: Sequence[str], place: Callable[[str], Path]
) -> None:
    """Train what the settings say and write the folder `place(key)`."""
    call = parse_call(spec, arguments)
    fix_threads(call.config.threads)
    processes = call.config.train.trainer.processes
    if not rank():
        _check_machine(f"{spec.sections(call.key)['train']}.trainer", call.config)
    check = call.config.train.trainer.overfit_check
    if check is not None and rank() is None:
        check_overfit(f"{spec.group}.{call.key}", arguments[1:], check)
    if processes > 1 and rank() is None:
        run_processes(f"stages.{spec.name}", arguments, processes)
        return
    if rank() is not None:
        enter_process(processes)
    if rank():
        _follow(spec, call)
    else:
        _lead(spec, call, place(call.key))


def _check_machine(place: str, config: TrainingConfig) -> None:
    """Ask again what `check_params` asked: its result may come from another machine's cache."""
    trainer = config.train.trainer
    if asks_for_gpus(trainer):
        import torch

        check_machine(place, trainer, config.threads, torch.cuda.device_count())


def _lead(spec: StageSpec[Config], call: Call[Config], out: Path) -> None:
    from plumbline.training.run import TrainingRun, open_job, train_to_folder

    with record_run(stage=spec.name, key=call.key, config=call.plain) as run, output_lock(out):
        processes = _join(call.config)
        training = TrainingRun.of(f"{spec.name}@{call.key}", call.config)
        job = open_job(call.config)
        facts = train_to_folder(training, job, out, on_log=run.metrics, processes=processes)
        run.facts(facts)
        run.artifact(out / "metrics.json")
    call.report(*_figures(facts, call.config), see=out / "metrics.json")


def _figures(facts: Mapping[str, Any], config: TrainingConfig) -> Iterator[str]:
    """What is said of a training."""
    trainer = config.train.trainer
    steps, epochs = facts["optimizer_steps"], facts["epochs"]
    early = trainer.max_steps is None and epochs < trainer.epochs
    yield f"{count(steps, 'step')} in {count(epochs, 'epoch')}{', stopped early' if early else ''}"
    yield count(facts["samples"], "sample")
    if facts["skipped_steps"]:
        yield f"{count(facts['skipped_steps'], 'step')} skipped"
    if best := facts.get("best"):
        yield f"best val {trainer.monitor} {best['value']:.4g} (epoch {best['epoch']})"
    if facts["final_train_loss"] is not None:
        yield f"last training loss {facts['final_train_loss']:.4g}"
    yield f"on {facts['device']} in {facts['precision']}"


def _follow(spec: StageSpec[Config], call: Call[Config]) -> None:
    """Be one of the processes that write nothing and say nothing."""
    from plumbline.training.run import TrainingRun, open_job, train_along

    logging.getLogger().setLevel(logging.ERROR)
    processes = _join(call.config)
    training = TrainingRun.of(f"{spec.name}@{call.key}", call.config)
    train_along(training, open_job(call.config), processes)


def _join(config: TrainingConfig) -> "Processes":
    from plumbline.models.device import resolve_device
    from plumbline.training.processes import Processes

    if rank() is None:
        return Processes()
    trainer = config.train.trainer
    return Processes.join(resolve_device(trainer.device), trainer.timeout_s)
