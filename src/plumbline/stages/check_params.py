"""Stage `check_params`: params.yaml is what conf/ composes to, and every setting is valid.

It writes what each stage reads of the settings, with the versions of the libraries that its code
imports, into a file of its own below `work/settings`: the stage depends on that file, and so reruns
when one of them changes and not when another one does.

`python -m stages.check_params --write` (plumbline params) composes params.yaml anew.
"""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from plumbline import paths
from plumbline.config import Config, check_config
from plumbline.errors import ConfigError
from plumbline.files import read_json, staged_output
from plumbline.names import check_name
from plumbline.params import (
    check_environment,
    check_params,
    compose_params,
    entries_of,
    read_params,
    write_params,
)
from plumbline.stage import count, say_done, settings_text
from plumbline.stages import digest_code
from plumbline.stages.agreement import Settings, check_agreement, trainings
from plumbline.stages.specs import specs
from plumbline.training.machine import asks_for_gpus, check_machine, count_gpus
from plumbline.weights.settings import NOWHERE

GROUPS = {
    "objects": "object store",
    "weights": "checkpoint",
    "datasets": "dataset",
    "align": "alignment",
    "tasks": "task",
}
"""Mapping of params.yaml -> what one of its entries is called."""

SAID = ("dataset", "alignment", "task")
"""Counted in what the stage says, even where there is none."""
DEPEND = {
    "datasets": "work/tokenizers",
    "align": "work/weights",
    "tasks": "work/weights",
}
"""Mapping of params.yaml -> folder of the records that its entries can depend on."""


def check_settings(params: dict[str, object]) -> Settings:
    """Validate the sections of all stages, and what they say of each other.

    Raises:
        ConfigError: the first setting that is wrong.
    """
    check_sections(params)
    settings: dict[tuple[str, str], Config] = {}
    for spec in specs():
        keys = [""] if spec.group is None else list(entries_of(params, spec.group))
        for key in keys:
            schema = spec.schema_for(key, params)
            settings[spec.name, key] = check_config(schema, spec.reads(key, params), params)
    check_agreement(settings)
    return settings


def check_sections(params: dict[str, object]) -> None:
    """Refuse a section that no stage reads: a misspelt one would leave its defaults in force.

    Raises:
        ConfigError: names the section and the nearest one that there is.
    """
    for group in DEPEND:  # an entry of weights is one section, and so known as a whole
        known = {
            place.split(".")[2]
            for spec in specs()
            if spec.group == group
            for place in (*spec.sections("KEY").values(), *spec.unkeyed("KEY").values())
            if place.startswith(f"{group}.KEY.")
        }
        for key, entry in entries_of(params, group).items():
            _check_weights(group, key, entry)
            for name in sorted(set(_names(entry)) - known):
                close = get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(known)}"
                raise ConfigError(f"{group}.{key}.{name}: no stage reads it; {hint}")


def _check_weights(group: str, key: str, entry: object) -> None:
    """Refuse an entry without `weights`: DVC would say no more than that a key is missing."""
    if group in DEPEND and isinstance(entry, Mapping) and "weights" not in entry:
        raise ConfigError(
            f"{group}.{key}.weights: missing; {DEPEND[group]}/<set> where it starts from "
            f"checkpoints, {NOWHERE} where not"
        )


def _names(entry: object) -> list[str]:
    """The sections of an entry; what is none has its error from the stage that reads it."""
    return [str(name) for name in entry] if isinstance(entry, Mapping) else []


def check_file_names(root: Path) -> None:
    """Check the names of what `experiment=` and a sweep choose: they go into commands as well.

    Raises:
        ConfigError: names the file and the rule.
    """
    for folder in (root / "conf" / "experiment", root / "sweeps"):
        for file in sorted(folder.glob("*.yaml")):
            check_name(file.relative_to(root).as_posix(), file.stem)


def check_machine_of(settings: Settings) -> None:
    """Refuse trainings that this machine cannot run, before any data stage does its work.

    Raises:
        ConfigError: names the setting and what the machine has.
    """
    trained = dict(trainings(settings))
    if not any(asks_for_gpus(training.train.trainer) for training in trained.values()):
        return  # the same everywhere
    gpus = count_gpus()
    for place, training in trained.items():
        check_machine(f"{place}.train.trainer", training.train.trainer, training.threads, gpus)


def write_settings(params: dict[str, object], out: Path) -> None:
    """Write for each stage and key what it reads, below the folder `out`: DVC hashes it.

    Raises:
        CheckpointError: `work/code` is damaged.
    """
    for spec in specs():
        for key in [""] if spec.group is None else list(entries_of(params, spec.group)):
            libraries = read_json(spec.code(key, params))["libraries"]
            file = out / paths.settings(spec.name, key).relative_to(paths.SETTINGS)
            file.parent.mkdir(exist_ok=True)
            file.write_text(settings_text(spec, key, params, libraries), encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Check, or with `--write` compose, params.yaml."""
    root = Path.cwd()
    check_file_names(root)
    if list(arguments) == ["--write"]:
        composed = compose_params(root)
        check_settings(composed)
        print("params.yaml written" if write_params(root, composed) else "params.yaml is current")
        return
    if arguments:
        raise ConfigError(f"{arguments[0]}: unknown option; --write composes params.yaml")
    params = read_params(root)
    if not os.environ.get("DVC_EXP_NAME"):
        # In an experiment DVC has just composed it, with the overrides of the experiment.
        check_params(root, params)
    check_environment(params)
    check_machine_of(check_settings(params))
    for parent in paths.REPORT_READS:
        parent.mkdir(parents=True, exist_ok=True)  # a selection may leave one of them empty
    if not paths.CODE.is_dir():  # run by hand
        digest_code.main([])
    with staged_output(paths.SETTINGS) as out:
        write_settings(params, out)
    numbers = {unit: len(entries_of(params, group)) for group, unit in GROUPS.items()}
    figures = [count(number, unit) for unit, number in numbers.items() if number or unit in SAID]
    say_done("check_params", *figures, "every setting valid", see=Path("params.yaml"))
