"""`plumbline.fit`: any module on any map-style dataset, by the trainer of the pipeline."""

import copy
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from plumbline.api.contract import Loss, check_loss, summed
from plumbline.api.dataset import Collate, Dataset, MapSource, collate_with, open_source
from plumbline.api.identity import (
    code_of,
    data_of,
    libraries_of,
    own_code,
    structure_of,
    weights_of,
)
from plumbline.api.settings import FitConfig, Settings, read_settings
from plumbline.disk_errors import describe_os_error
from plumbline.errors import ConfigError, OutputError
from plumbline.files import exclusive_lock, settle_folder
from plumbline.loading.loader import Loader
from plumbline.training.checkpoint import CheckpointStore, fingerprint_run
from plumbline.training.clock import Best
from plumbline.training.config import TrainerConfig
from plumbline.training.fitting import fit_into_memory
from plumbline.training.freeze import freeze
from plumbline.training.history import FitResult, History
from plumbline.training.launch import decide_machine, enter_process, rank
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.progress import OnLog
from plumbline.training.sections import SHAPE_NOTHING
from plumbline.training.task import Task, no_metrics
from plumbline.training.trainer import Trainer

logger = logging.getLogger(__name__)

Metrics = Callable[[nn.Module], Mapping[str, float]]
"""What is measured of a model at each validation, beside the loss."""


@dataclass(frozen=True)
class Fitted:
    """A finished training."""

    model: nn.Module
    """With the best weights, or the last ones where nothing was validated; evaluating."""
    history: History
    """What was measured: `steps`, `validations` and the like, each a list of dicts."""
    best: Best
    """The best validation: `value`, `epoch` and `global_step`; None: there was none."""
    facts: Mapping[str, object]
    """Device, precision, groups of parameters."""
    state: Path
    """Where the training state lies; the same call finds it there."""


@dataclass(frozen=True)
class _Work:
    """What a caller gave, checked."""

    model: nn.Module
    task: Task
    train: MapSource
    validation: MapSource | None
    config: FitConfig
    machine: Machine


def fit(
    model: nn.Module,
    loss: Loss,
    data: Dataset,
    validation: Dataset | None = None,
    *,
    state: str | Path,
    collate: Collate | None = None,
    metrics: Metrics | None = None,
    on_log: OnLog | None = None,
    **settings: Unpack[Settings],
) -> Fitted:
    """Train a copy of a model; killed at any moment and called again, end in the same bits.

    The model that is given stays as it is, so that the same call is the same training: it goes on
    from its own state, or returns what it came to. Under torchrun every process calls it.

    Args:
        model: any module.
        loss: of (model, batch): the mean over the batch as a scalar tensor [], (sum, count), or a
            `plumbline.batch.LossSum`. Where samples count unequally, as tokens do, return the sum
            and the count: only these add up exactly.
        data: map-style; its samples are dicts. What it draws at random comes from the global
            generators of torch, numpy or Python, which are seeded for each sample and epoch.
        validation: as `data`; None: nothing is validated, and the last weights are the best.
        state: folder of the training state, by fingerprint of all that is given here. It stays
            when the training is done; delete it to train anew.
        collate: samples -> a batch, a dict of tensors [batch, ...]; None: they are stacked, and
            padded where they differ in length.
        metrics: of a model, measured at each validation; `trainer.monitor` may name one.
        on_log: hears of every optimiser step and validation: (global_step, values); of several
            processes in the first one.
        **settings: `Settings`; `loader` and `trainer` as in a section `train` of params.yaml.

    Returns:
        The trained model with its history.

    Raises:
        PlumblineError: a setting, the loss, the model or the data does not fit, a step failed, or
            another process trains the same in this folder.
        KeyboardInterrupt: the state is saved; the same call goes on from it.
    """
    allow_unused = settings.pop("allow_unused", False)
    threads = torch.get_num_threads()
    config = read_settings(dict(settings), threads=threads, validates=validation is not None)
    make = collate_with(collate)
    work = _Work(
        model=_copied(model),
        task=Task("fit", make, summed(loss), validation_metrics=metrics or no_metrics),
        train=open_source(data, config.seed, "data"),
        validation=_validation(validation, config.seed),
        config=config,
        machine=_machine(config),
    )
    # Of what was given: nothing of it is on a device or frozen.
    inputs = _inputs(model, work, {"loss": loss, "collate": collate, "metrics": metrics})
    _check(work, allow_unused=allow_unused)
    identity = _identity(work, inputs, libraries_of(model, data, validation))
    return _train(work, identity, Path(state), on_log)


def _validation(data: Dataset | None, seed: int) -> MapSource | None:
    return None if data is None else open_source(data, seed, "validation")


def _inputs(model: nn.Module, work: _Work, code: Mapping[str, object]) -> dict[str, str]:
    """The digests of what a caller gave, by the name of the argument."""
    return {
        "model": structure_of(model),
        "weights": weights_of(model),
        **{name: code_of(each) for name, each in code.items()},
        "data": data_of(work.train),
        "validation": "" if work.validation is None else data_of(work.validation),
    }


def _machine(config: FitConfig) -> Machine:
    """What this process computes on, and whom it trains with."""
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("fit: call it from the main thread, which alone hears of Ctrl-C")
    if together := rank() is not None:
        enter_process(config.train.trainer.processes)
    return decide_machine(config, together=together)


def _copied(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"fit: model is a {type(model).__name__}: give a torch.nn.Module")
    try:
        return copy.deepcopy(model).cpu()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"fit: the model cannot be copied ({text}): keep no tensor with a gradient, file or "
            "lock as an attribute of a module"
        ) from error


def _check(work: _Work, *, allow_unused: bool) -> None:
    """Refuse before the first step what no step could be made of."""
    train = work.config.train
    freeze(work.model, train.freeze)
    # Spread layers need every process in each pass; their first step says what is wrong.
    if not len(work.train) or train.trainer.meets:
        return
    first = range(min(len(work.train), train.loader.batch_size))
    batch = work.task.collate([work.train.sample(index, 0) for index in first])
    unused = check_loss(work.model, work.task, batch, train.freeze, work.machine)
    if unused and not allow_unused:
        part = unused[0].rpartition(".")[0] or unused[0]
        more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
        raise ConfigError(
            f"fit: {unused[0]}{more} gets no gradient from the loss of the first batch: use it "
            f'there, freeze it (freeze=["{part}"]), or set allow_unused=True'
        )


def _identity(
    work: _Work, inputs: Mapping[str, str], libraries: Mapping[str, str]
) -> dict[str, object]:
    """All that makes the training, as `identify_run` has it of a stage's."""
    processes = work.machine.processes
    for name, value in inputs.items():
        if len(set(processes.collect(value))) > 1:
            remedy = "call torch.manual_seed before it is made" if name == "weights" else "give all"
            raise ConfigError(
                f"fit: the processes of this training have different {name}: {remedy} the same"
            )
    settings = {
        **work.config.model_dump(mode="json", exclude=SHAPE_NOTHING),
        "device": work.machine.device.type,
        "precision": work.machine.precision,
    }
    return {
        "settings": settings,
        "inputs": dict(inputs),
        "code": own_code(),
        "libraries": dict(libraries),
    }


def _train(work: _Work, identity: dict[str, object], root: Path, on_log: OnLog | None) -> Fitted:
    config, processes = work.config, work.machine.processes
    fingerprint = fingerprint_run(identity)
    with _held_state(root, fingerprint[:16], processes) as folder:
        store = CheckpointStore(
            folder,
            fingerprint,
            identity=identity,
            keep_every_epochs=config.train.trainer.checkpoint.keep_every_epochs,
        )
        if processes.is_main and store.latest() is None and (other := store.nearest_other()):
            logger.warning("fit: starting anew: %s", other)
        load = partial(_loader, work)
        train = load(work.train, shuffle=True)
        trainer = Trainer(
            work.model,
            work.task,
            train,
            None if work.validation is None else load(work.validation, shuffle=False),
            _fitting(work, train),
            work.machine,
            store=store,
            seed=config.seed,
            frozen=config.train.freeze,
            on_log=on_log if processes.is_main else None,
        )
        result = _run(trainer, root, alone=processes.count == 1)
        # The main process has its weights by now, and those of all are the same.
        processes.from_main(lambda: None)
        if config.train.trainer.validates and not processes.is_main:
            store.load_best(work.model)
        processes.collect(None)
    work.model.eval()
    return Fitted(work.model, result.history, result.best, result.facts, folder)


def _fitting(work: _Work, train: Loader) -> TrainerConfig:
    """The settings of the trainer with the micro-batches that fit, where these are to be found."""
    trainer = work.config.train.trainer
    if trainer.micro_batch_size != "auto":
        return trainer
    found = fit_into_memory(work.model, work.task, train, work.config.train, work.machine)
    whole = train.largest_share()
    size = min(work.machine.processes.collect(found.micro_batch_size or whole))
    return trainer.model_copy(update={"micro_batch_size": None if size == whole else size})


def _loader(work: _Work, source: MapSource, *, shuffle: bool) -> Loader:
    return Loader(
        source,
        work.task.collate,
        work.config.train.loader,
        seed=work.config.seed,
        shuffle=shuffle,
        share=work.machine.processes.share,
        device=work.machine.device,
    )


def _run(trainer: Trainer, root: Path, *, alone: bool) -> FitResult:
    """Train to the end; Ctrl-C leaves a notebook running, with the state saved."""
    try:
        return trainer.fit()
    except SystemExit as stopped:
        if alone and stopped.code == 128 + signal.SIGINT:
            step = trainer.progress.clock.global_step
            raise KeyboardInterrupt(
                f"fit: stopped after step {step}, saved in {root}: the same call goes on from it"
            ) from None
        raise


@contextmanager
def _held_state(root: Path, name: str, processes: Processes) -> Iterator[Path]:
    """The folder of one training's state, which the main process holds for all."""
    folder = root / name
    if not processes.is_main:
        yield processes.from_main(Path)  # sent by the one that holds the lock
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(root / f"{name}.lock"))
        except BlockingIOError as holder:
            raise OutputError(
                f"{folder}: the running process {holder} trains the same there; wait for it or end "
                "it"
            ) from None
        try:
            settle_folder(folder)  # what a killed run left half written
            for left in root.glob(f".{name}.removed-*"):
                shutil.rmtree(left)
        except OSError as error:
            raise describe_os_error(error, folder) from error
        yield processes.from_main(lambda: folder)
