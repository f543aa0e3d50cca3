"""From settings to a job and from a job to a model folder: what the training stages share."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plumbline import paths
from plumbline.errors import TrainingError
from plumbline.files import digest_of, dump_json, staged_folder
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.device import resolve_device, resolve_precision
from plumbline.models.stored import save_model
from plumbline.registry import load_attribute
from plumbline.tasks.base import JobContext, TrainingJob
from plumbline.training.checkpoint import (
    CheckpointStore,
    fingerprint_run,
    identify_run,
    training_state_folder,
)
from plumbline.training.config import TrainerConfig
from plumbline.training.flops import count_step
from plumbline.training.freeze import set_training_mode
from plumbline.training.history import FitResult
from plumbline.training.processes import Processes
from plumbline.training.sections import TrainingConfig
from plumbline.training.skipping import FAILURES
from plumbline.training.trainer import OnLog, Trainer

logger = logging.getLogger(__name__)


def open_job(config: TrainingConfig) -> TrainingJob:
    """Build the model, data and task of a training from its dataset's cache.

    Raises:
        PlumblineError: a setting does not fit the data or the start, or a file is damaged.
    """
    train = config.train
    context = JobContext(
        cache=TrainingCache(paths.cache(config.data)),
        seed=config.seed,
        start=config.start_folder,
        freeze=train.freeze,
        device=resolve_device(train.trainer.device),
        cache_bytes=train.loader.cache_mb << 20,
    )
    job: TrainingJob = load_attribute(config.builder)(context, train.model, train.task)
    return job


@dataclass(frozen=True)
class TrainingRun:
    """The settings of one training that do not depend on the kind of work."""

    stage: str
    settings: Mapping[str, Any]
    """Everything resolved, as plain JSON types: part of the fingerprint, stored with the model."""
    loader: LoaderConfig
    trainer: TrainerConfig
    seed: int
    threads: int
    frozen: Sequence[str]

    @classmethod
    def of(cls, stage: str, config: TrainingConfig) -> "TrainingRun":
        """What the settings of a stage say of its training."""
        return cls(
            stage=stage,
            settings=config.model_dump(mode="json"),
            loader=config.train.loader,
            trainer=config.train.trainer,
            seed=config.seed,
            threads=config.threads,
            frozen=config.train.freeze,
        )


def train_to_folder(
    run: TrainingRun,
    job: TrainingJob,
    out: Path,
    *,
    on_log: OnLog,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Train a job and publish its model, history and figures as the folder `out`.

    The training state goes only when `out` stands: a full disk at the end costs no training.

    Args:
        run: the settings.
        job: the model, its data and its task.
        out: where the model goes.
        on_log: hears of every step and validation.
        processes: the main one of several; the others `train_along`.

    Returns:
        Facts for the run record: device, precision, parameters, counts, operations of a step.
    """
    together = processes or Processes()
    with _prepared(run, job, together, on_log) as trainer:
        with staged_folder(out) as partial:
            result = trainer.fit()
            figures = _figures(result, count_parameters(job.model))
            save_model(partial, job.model, job.spec, job.tokenizer)
            result.history.write(partial)
            (partial / "config.json").write_text(dump_json(dict(run.settings)), encoding="utf-8")
            (partial / "metrics.json").write_text(dump_json(figures), encoding="utf-8")
        if not run.trainer.checkpoint.keep_after_success:
            trainer.store.remove()
    identity = {
        "fingerprint": trainer.fingerprint,
        "inputs_sha256": digest_of(dict(job.inputs)),
        "processes": together.count,
    }
    return {**result.facts, **figures, **identity, **_flops(run, job, trainer.device)}


def train_along(run: TrainingRun, job: TrainingJob, processes: Processes) -> None:
    """Take part in a training whose main process is another one.

    Raises:
        SystemExit: it failed; why is said by the main process, but by this one where layers are
            sharded.
    """
    try:
        with _prepared(run, job, processes, lambda step, values: None) as trainer:
            trainer.fit()
    except TrainingError as error:
        if run.trainer.shard_layers:
            logger.error("process %d: %s", processes.rank, error)
        raise SystemExit(1) from error


@contextmanager
def _prepared(
    run: TrainingRun, job: TrainingJob, processes: Processes, on_log: OnLog
) -> Iterator[Trainer]:
    """A trainer that holds its training state."""
    torch.set_num_threads(run.threads)
    processes = replace(processes, sharded=run.trainer.shard_layers)
    device = processes.device or resolve_device(run.trainer.device)
    machine = {
        "device": device.type,
        "precision": resolve_precision(run.trainer.precision, device),
    }
    identity = identify_run({**_that_shape_results(run.settings), **machine}, job.inputs)
    fingerprint = fingerprint_run(identity)
    with _state_folder(run.stage, fingerprint, processes) as folder:
        store = CheckpointStore(
            folder,
            fingerprint,
            identity=identity,
            keep_every_epochs=run.trainer.checkpoint.keep_every_epochs,
        )
        yield Trainer(
            job.model,
            job.task,
            Loader(
                job.train,
                job.task.collate,
                run.loader,
                seed=run.seed,
                shuffle=True,
                share=processes.share,
            ),
            _validation_loader(run, job, processes),
            run.trainer,
            store=store,
            seed=run.seed,
            fingerprint=fingerprint,
            frozen=run.frozen,
            validation_task=job.validation_task,
            on_log=on_log,
            processes=processes,
        )


_SHAPE_NOTHING = {"loader": {"workers", "cache_mb", "timeout_s"}, "trainer": {"timeout_s"}}
"""Settings of `train` under any value of which a training goes on from its state."""


def _that_shape_results(settings: Mapping[str, Any]) -> dict[str, Any]:
    train = {
        group: {name: v for name, v in values.items() if name not in _SHAPE_NOTHING[group]}
        if group in _SHAPE_NOTHING
        else values
        for group, values in settings.get("train", {}).items()
    }
    return {**settings, "train": train}


@contextmanager
def _state_folder(stage: str, fingerprint: str, processes: Processes) -> Iterator[Path]:
    """The folder of the training state, which the main process holds for all."""
    if not processes.is_main:
        yield processes.from_main(Path)
        return
    with training_state_folder(stage, fingerprint) as folder:
        yield processes.from_main(lambda: folder)


def _flops(run: TrainingRun, job: TrainingJob, device: torch.device) -> dict[str, Any]:
    """Operations of the first batch, once the model is safe; nothing where there is no memory."""
    if run.trainer.shard_layers:
        return {}  # the whole model may not fit
    loader = run.loader.model_copy(update={"workers": 0})
    batches = Loader(job.train, job.task.collate, loader, seed=run.seed, shuffle=True).batches(0)
    batch = next(batches)
    precision = resolve_precision(run.trainer.precision, device)
    set_training_mode(job.model, run.frozen)
    try:
        flops = count_step(job.model, job.task, batch, device, precision)
    except FAILURES:
        return {}
    samples = len(batch["sample_index"])
    return {"flops": {"samples": samples, "forward": flops.forward, "step": flops.step}}


def _validation_loader(run: TrainingRun, job: TrainingJob, processes: Processes) -> Loader | None:
    if job.validation is None or not run.trainer.validates:
        return None
    collate = (job.validation_task or job.task).collate
    share = processes.share
    return Loader(job.validation, collate, run.loader, seed=run.seed, shuffle=False, share=share)


def count_parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """Parameters of each part of a model: all, and those that train."""
    parts: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        part = parts.setdefault(name.split(".")[0], {"all": 0, "trained": 0})
        part["all"] += parameter.numel()
        part["trained"] += parameter.numel() if parameter.requires_grad else 0
    return parts


def _last_finite(losses: Sequence[float]) -> float | None:
    """The last loss that is a number: those of skipped steps are not."""
    return next((loss for loss in reversed(losses) if math.isfinite(loss)), None)


def _figures(result: FitResult, parameters: dict[str, dict[str, int]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "optimizer_steps": result.clock.global_step,
        "micro_steps": result.clock.micro_step,
        "samples": result.clock.samples,
        "targets": result.clock.targets,
        "epochs": result.clock.epoch,
        "skipped_steps": result.clock.skipped,
        "final_train_loss": _last_finite([row["loss"] for row in result.history.steps]),
        "frozen_tensors_unchanged": result.frozen_tensors,
        "parameters": parameters,
    }
    if result.best.value is not None:
        figures["best"] = {
            "value": result.best.value,
            "epoch": result.best.epoch,
            "step": result.best.global_step,
        }
    plain: dict[str, Any] = json.loads(dump_json(figures))
    return plain
