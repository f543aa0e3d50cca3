"""What the two stages that train have in common: one or several processes, record, lock, output."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from plumbline.config import fix_threads
from plumbline.files import output_lock
from plumbline.imports import importing
from plumbline.stage import Call, StageSpec, count, parse_call
from plumbline.tracking.record import record_run
from plumbline.training.figures import TrainingFigures
from plumbline.training.heartbeat import watching_nodes
from plumbline.training.launch import (
    decide_machine,
    enter_process,
    quiet_backends,
    rank,
    run_processes,
)
from plumbline.training.machine import Machine, asks_for_gpus, check_machine
from plumbline.training.nodes import is_first_here
from plumbline.training.overfit_check import check_overfit
from plumbline.training.sections import TrainingConfig

Config = TypeVar("Config", bound=TrainingConfig)


def run_training_stage(
    spec: StageSpec[Config], arguments: Sequence[str], place: Callable[[str], Path]
) -> None:
    """Train what the settings say and write the folder `place(key)`."""
    call = parse_call(spec, arguments)
    fix_threads(call.config.threads)
    quiet_backends()
    trainer, own = call.config.train.trainer, rank()
    if is_first_here():
        _check_machine(f"{spec.sections(call.key)['train']}.trainer", call.config)
    if own is None:
        if trainer.overfit_check is not None:
            check_overfit(f"{spec.group}.{call.key}", arguments[1:], trainer.overfit_check)
        if trainer.processes > 1:
            run_processes(f"stages.{spec.name}", arguments, trainer.processes)
            return
    else:
        enter_process(trainer.processes)
    if own:
        _follow(call)
    else:
        _lead(spec, call, place(call.key), together=own is not None)


def _check_machine(place: str, config: TrainingConfig) -> None:
    """Ask again what `check_params` asked: its result may come from another machine's cache."""
    trainer = config.train.trainer
    if asks_for_gpus(trainer):
        import torch

        check_machine(place, trainer, config.threads, torch.cuda.device_count())


def _lead(spec: StageSpec[Config], call: Call[Config], out: Path, *, together: bool) -> None:
    with importing():
        from plumbline.training.run import open_job, train_to_folder

    with record_run(stage=spec.name, key=call.key, config=call.plain) as run, output_lock(out):
        machine = decide_machine(call.config, together=together)
        with watching_nodes():
            job = open_job(call.config, machine, confirm_later=True)
            name = f"{call.stage}@{call.key}"
            trained = train_to_folder(name, call.config, job, machine, out, on_log=run.metrics)
        run.facts(trained.facts)
        run.artifact(out / "metrics.json")
    call.report(*_figures(trained.figures, call.config, machine), see=out / "metrics.json")


def _figures(figures: TrainingFigures, config: TrainingConfig, machine: Machine) -> Iterator[str]:
    """What is said of a training."""
    trainer = config.train.trainer
    steps, epochs = figures["optimizer_steps"], figures["epochs"]
    early = trainer.max_steps is None and epochs < trainer.epochs
    yield f"{count(steps, 'step')} in {count(epochs, 'epoch')}{', stopped early' if early else ''}"
    yield count(figures["samples"], "sample")
    if figures["skipped_steps"]:
        yield f"{count(figures['skipped_steps'], 'step')} skipped"
    if best := figures.get("best"):
        yield f"best val {trainer.monitor} {best['value']:.4g} (epoch {best['epoch']})"
    if (loss := figures["final_train_loss"]) is not None:
        yield f"last training loss {loss:.4g}"
    yield f"on {machine.device} in {machine.precision}"


def _follow(call: Call[Config]) -> None:
    """Be one of the processes that write nothing and say nothing."""
    with importing():
        from plumbline.training.run import open_job, train_along

    logging.getLogger().setLevel(logging.ERROR)
    machine = decide_machine(call.config, together=True)
    with watching_nodes():
        job = open_job(call.config, machine, confirm_later=True)
        train_along(f"{call.stage}@{call.key}", call.config, job, machine)
