"""From settings to a job and from a job to a model folder: what the training stages share."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from plumbline import paths
from plumbline.config import without_folders
from plumbline.errors import CheckpointError, ConfigError, DamagedInputError, TrainingError
from plumbline.files import digest_of, dump_json, staged_folder
from plumbline.kind import Kind
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.stored import holds_model, read_spec, save_model
from plumbline.training.adapters import (
    attach_adapters,
    frozen_base,
    merge_adapters,
    save_adapters,
)
from plumbline.training.checkpoint import (
    CheckpointStore,
    fingerprint_run,
    identify_run,
    training_state_folder,
)
from plumbline.training.figures import ParameterCounts, TrainingFigures
from plumbline.training.fitting import UNFORESEEN, Fitting, fit_into_memory
from plumbline.training.flops import count_step
from plumbline.training.freeze import set_training_mode
from plumbline.training.history import FitResult
from plumbline.training.machine import Machine
from plumbline.training.memory_estimate import Estimator
from plumbline.training.nodes import is_first_here
from plumbline.training.processes import Processes, UntoldError
from plumbline.training.progress import OnLog
from plumbline.training.sections import SHAPE_NOTHING, TrainingConfig
from plumbline.training.task import JobContext, TrainingJob
from plumbline.training.trainer import Trainer
from plumbline.weights.checkpoint import Base, known_as
from plumbline.weights.named import base_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    figures: TrainingFigures
    facts: Mapping[str, object]
    """For the run record: device, precision, the figures, operations of a step."""


def open_job(
    config: TrainingConfig, machine: Machine, *, confirm_later: bool = False
) -> TrainingJob:
    """Build the model, data and task of a training from its dataset's cache.

    Args:
        config: the settings.
        machine: what to compute on.
        confirm_later: whether large files of the cache are checked beside what follows.

    Raises:
        PlumblineError: a setting does not fit the data or the start, or a file is damaged.
    """
    train = config.train
    context = JobContext(
        cache=TrainingCache(paths.cache(config.data), confirm_later=confirm_later),
        seed=config.seed,
        start=config.start_folder,
        freeze=train.freeze,
        machine=machine,
        compile=train.trainer.compile,
        keep_features=train.trainer.keep_features,
        cache_bytes=train.loader.cache_mb << 20,
        weights=Path(config.weights),
    )
    _check_start(config.start_folder, config.work)
    try:
        job: TrainingJob = config.work.role("train").build(context, train.model, train.task)
    except Exception:
        context.confirm()  # where something is damaged, that is why
        raise
    adapters = attach_adapters(
        *(job.model, train.adapters),
        seed=config.seed,
        compute_dtype=_COMPUTE[machine.precision],
        new_tokens=_new_tokens(config, context),
    )
    return replace(job, adapters=adapters, confirm=context.confirm)


def _new_tokens(config: TrainingConfig, context: JobContext) -> dict[str, list[int]]:
    """Part with an adapter -> ids of tokens that its checkpoint does not know, where they train."""
    found: dict[str, list[int]] = {}
    for part, adapter in config.train.adapters.items():
        if adapter.new_tokens:
            setting, name = f"adapters.{part}.new_tokens", base_of(config.train.model, part)
            if name is None:
                raise ConfigError(f"{setting}: the part starts from no checkpoint; leave it out")
            found[part] = context.new_tokens(setting, name)
    return found


_COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a training -> the type in which weights held in 4 bits are multiplied."""


def _check_start(folder: Path, kind: Kind) -> None:
    """Refuse a start of a kind whose code is not part of this training's key."""
    known = kind.settings.starts_from
    if known and holds_model(folder) and (found := read_spec(folder).kind) not in known:
        raise CheckpointError(
            f"{folder}: holds a model of kind {found}; a training of kind {kind.name} starts from "
            f"{' or '.join(known)}"
        )


def train_to_folder(
    stage: str,
    config: TrainingConfig,
    job: TrainingJob,
    machine: Machine,
    out: Path,
    *,
    on_log: OnLog,
) -> Trained:
    """Train a job and publish its model, history and figures as the folder `out`.

    The training state goes only when `out` stands: a full disk at the end costs no training.

    Args:
        stage: with its key, such as finetune@vqa: where the training state lies.
        config: the settings, which go into the fingerprint and are stored with the model.
        job: the model, its data and its task.
        machine: what to compute on; of several processes the main one, the others `train_along`.
        out: where the model goes.
        on_log: hears of every step and validation.

    """
    fitting = _fit(config, job, machine)
    with _prepared(stage, config, job, machine, fitting, on_log) as trainer:
        with _forgetting_if_damaged(trainer.store), staged_folder(out) as partial:
            result = trainer.fit()
            job.confirm()
            figures = _figures(result, count_parameters(job.model))
            if job.adapters:
                save_adapters(partial, job.adapters, _bases(config))
                figures["adapters"] = merge_adapters(job.model, job.adapters)
            save_model(partial, job.model, job.spec, job.tokenizer)
            result.history.write(partial)
            (partial / "config.json").write_text(
                dump_json(without_folders(config.model_dump(mode="json"))), encoding="utf-8"
            )
            (partial / "metrics.json").write_text(dump_json(figures), encoding="utf-8")
        # Only now that `out` has its name: were the process killed before, a new one goes on.
        if not config.train.trainer.checkpoint.keep_after_success:
            trainer.store.remove()
    identity = {
        "fingerprint": trainer.store.fingerprint,
        "inputs_sha256": digest_of(dict(job.inputs)),
        "processes": machine.processes.count,
    }
    cut = result.facts["micro_batch_size"] is not None
    facts = {
        **result.facts,
        **figures,
        **identity,
        **fitting.facts(),
        **_flops(config, job, machine, short_of_memory=cut),
    }
    return Trained(figures, facts)


@contextmanager
def _forgetting_if_damaged(store: CheckpointStore) -> Iterator[None]:
    """Take the training state away where what was read turns out to be damaged.

    Repaired, it would have the digests that the state is for.
    """
    try:
        yield
    except DamagedInputError:
        store.remove()
        raise


def _bases(config: TrainingConfig) -> dict[str, Base]:
    """Part with an adapter -> the checkpoint that it was put onto, where that is one."""
    model, folder = config.train.model, Path(config.weights)
    names = {part: base_of(model, part) for part in config.train.adapters}
    return {part: known_as(folder, name) for part, name in names.items() if name}


def train_along(stage: str, config: TrainingConfig, job: TrainingJob, machine: Machine) -> None:
    """Take part in a training whose main process is another one.

    Raises:
        SystemExit: it failed; why is said by the main process, but by this one where it could not
            tell the others, or where it is the first one of another machine.
    """
    fitting = _fit(config, job, machine)
    try:
        with _prepared(stage, config, job, machine, fitting, lambda step, values: None) as trainer:
            trainer.fit()
    except TrainingError as error:
        untold = config.train.trainer.meets or isinstance(error, UntoldError)
        if untold or is_first_here():
            logger.error("process %d: %s", machine.processes.rank, error)
        raise SystemExit(1) from error


def _fit(config: TrainingConfig, job: TrainingJob, machine: Machine) -> Fitting:
    """What the training takes of memory; of several processes all go by the one with least room."""
    loader = _training_loader(config, job, machine)
    fitting = fit_into_memory(job.model, job.task, loader, config.train, machine)
    if machine.processes.is_main:
        fitting.say()
    whole = loader.largest_share()
    size = min(machine.processes.collect(fitting.micro_batch_size or whole))
    return replace(fitting, micro_batch_size=None if size == whole else size)


@contextmanager
def _prepared(
    stage: str,
    config: TrainingConfig,
    job: TrainingJob,
    machine: Machine,
    fitting: Fitting,
    on_log: OnLog,
) -> Iterator[Trainer]:
    """A trainer that holds its training state."""
    settings = {
        **config.model_dump(mode="json", exclude=SHAPE_NOTHING),
        # Not its number: a training may go on with another GPU of the machine.
        "device": machine.device.type,
        "precision": machine.precision,
    }
    identity = identify_run(settings, job.inputs)
    fingerprint = fingerprint_run(identity)
    with _state_folder(stage, fingerprint, machine.processes) as folder:
        yield Trainer(
            job.model,
            job.task,
            _training_loader(config, job, machine),
            _validation_loader(config, job, machine),
            config.train.trainer.model_copy(update={"micro_batch_size": fitting.micro_batch_size}),
            machine,
            store=CheckpointStore(
                folder,
                fingerprint,
                identity=identity,
                keep_every_epochs=config.train.trainer.checkpoint.keep_every_epochs,
            ),
            seed=config.seed,
            frozen=config.train.freeze,
            frozen_base=frozen_base(job.model, job.adapters),
            validation_task=job.validation_task,
            on_log=on_log,
        )


def _training_loader(config: TrainingConfig, job: TrainingJob, machine: Machine) -> Loader:
    """The batches of training, of each the share of this process."""
    return Loader(
        job.train,
        job.task.collate_for(machine.device),
        _loader_config(config, job),
        seed=config.seed,
        shuffle=True,
        share=machine.processes.share,
        device=machine.device,
        confirm=job.confirm,
    )


def _loader_config(config: TrainingConfig, job: TrainingJob) -> LoaderConfig:
    loader = config.train.loader
    # Of training alone: a sum over the validation split keeps its order.
    return loader.model_copy(update={"bucket_by_length": True}) if job.by_length else loader


def _validation_loader(config: TrainingConfig, job: TrainingJob, machine: Machine) -> Loader | None:
    if job.validation is None or not config.train.trainer.validates:
        return None
    task = job.validation_task or job.task
    return Loader(
        job.validation,
        task.collate_for(machine.device),
        config.train.loader,
        seed=config.seed,
        shuffle=False,
        share=machine.processes.share,
        device=machine.device,
    )


@contextmanager
def _state_folder(stage: str, fingerprint: str, processes: Processes) -> Iterator[Path]:
    """The folder of the training state, which the main process holds for all."""
    if not processes.is_main:
        yield processes.from_main(Path)  # sent by the one that holds the lock
        return
    with training_state_folder(stage, fingerprint) as folder:
        yield processes.from_main(lambda: folder)


def _flops(
    config: TrainingConfig, job: TrainingJob, machine: Machine, *, short_of_memory: bool
) -> dict[str, object]:
    """Operations of the first batch, once the model is safe; nothing where there is no memory."""
    if config.train.trainer.shard_layers:
        return {}  # the whole model may not fit
    # No processes are started for a single batch.
    loader = _loader_config(config, job).model_copy(update={"workers": 0})
    batches = Loader(job.train, job.task.collate, loader, seed=config.seed, shuffle=True).batches(0)
    batch = next(batches)
    set_training_mode(job.model, config.train.freeze)
    again = config.train.trainer.gradient_checkpointing
    try:
        if short_of_memory or again:
            # The same counts, of tensors without memory; layers computed again are no work more.
            trainer = config.train.trainer.model_copy(update={"gradient_checkpointing": False})
            plain = config.train.model_copy(update={"trainer": trainer})
            flops = Estimator(job.model, job.task, plain, machine).flops(batch)
        else:
            flops = count_step(job.model, job.task, batch, machine)
    # A figure for the record alone: the model is published without it.
    except UNFORESEEN:
        return {}
    samples = len(batch["sample_index"])
    return {"flops": {"samples": samples, "forward": flops.forward, "step": flops.step}}


def count_parameters(model: nn.Module) -> dict[str, ParameterCounts]:
    """Parameters of each part of a model: all, and those that train."""
    parts: dict[str, ParameterCounts] = {}
    for name, parameter in model.named_parameters():
        # named_parameters gives a shared weight once, under its first name.
        part = parts.setdefault(name.split(".")[0], {"all": 0, "trained": 0})
        part["all"] += parameter.numel()
        part["trained"] += parameter.numel() if parameter.requires_grad else 0
    return parts


def _last_finite(losses: Sequence[float]) -> float | None:
    """The last loss that is a number: those of skipped steps are not."""
    return next((loss for loss in reversed(losses) if math.isfinite(loss)), None)


def _figures(result: FitResult, parameters: dict[str, ParameterCounts]) -> TrainingFigures:
    figures: TrainingFigures = {
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
    return figures
