"""What is looked at: a task or an alignment of params.yaml, as its stage would train it."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.params import entries_of
from plumbline.stage import Call, StageSpec, parse_call
from plumbline.training.alignment_sections import PRETRAIN_ALIGNMENT
from plumbline.training.launch import decide_machine
from plumbline.training.machine import Machine
from plumbline.training.sections import TrainingConfig
from plumbline.training.task_sections import FINETUNE

if TYPE_CHECKING:
    from plumbline.batch import Batch
    from plumbline.training.task import TrainingJob

SPECS: dict[str, StageSpec[TrainingConfig]] = {"tasks": FINETUNE, "align": PRETRAIN_ALIGNMENT}


def read_call(name: str, overrides: Sequence[str]) -> Call[TrainingConfig]:
    """Find a task or an alignment by its name and read its settings.

    Args:
        name: such as `vqa`, or `tasks.vqa` where an alignment has the same name.
        overrides: of params.yaml.

    Raises:
        ConfigError: there is none or there are two of this name, or a setting is wrong.
    """
    params = compose_yaml(Path.cwd(), "params", [])
    known = {f"{group}.{key}" for group in SPECS for key in entries_of(params, group)}
    found = [full for full in sorted(known) if name in (full, full.split(".", 1)[1])]
    if len(found) != 1:
        if found:
            raise ConfigError(f"{name}: which one, {' or '.join(found)}?")
        near = difflib.get_close_matches(name, [n.split(".", 1)[1] for n in known], n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"{name}: no such task or alignment{meant} (there is {', '.join(sorted(known))})"
        )
    group, key = found[0].split(".", 1)
    return parse_call(SPECS[group], [key, *overrides])


@dataclass(frozen=True)
class Target:
    """A training that is ready to begin."""

    key: str
    config: TrainingConfig
    machine: Machine
    job: "TrainingJob"

    def batch(self, samples: int | None = None) -> "Batch":
        """The first batch that training sees, or one of so many samples.

        Raises:
            ConfigError: the training split has no sample.
        """
        from plumbline.loading.loader import Loader

        chosen: dict[str, object] = {"workers": 0}
        if samples is not None:
            chosen |= {"batch_size": samples, "max_tokens": None}
        loader = Loader(
            self.job.train,
            self.job.task.collate,
            self.config.train.loader.model_copy(update=chosen),
            seed=self.config.seed,
            shuffle=True,
        )
        for batch in loader.batches(epoch=0):
            return batch
        raise ConfigError("no training sample: nothing in the train split fits the task")


def open_target(call: Call[TrainingConfig]) -> Target:
    """Build what a call names.

    Raises:
        PlumblineError: the data or the start is missing, damaged or does not fit the settings.
    """
    from plumbline import paths
    from plumbline.training.freeze import freeze
    from plumbline.training.run import open_job

    if not paths.cache(call.config.data).is_dir():
        raise ConfigError(
            f"{paths.cache(call.config.data)}: not there yet; run "
            f"dvc repro tokenize_text@{call.config.data}"
        )
    machine = decide_machine(call.config)
    job = open_job(call.config, machine)
    freeze(job.model, call.config.train.freeze)
    return Target(call.key, call.config, machine, job)
