"""Whether a run can begin: its settings as DVC will compose them, checked before any stage runs."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.params import check_environment, check_params, entries_of, read_params
from plumbline.stages.check_params import check_file_names, check_machine_of, check_settings

EXPERIMENT = "experiment"
"""The group of conf/ whose files are whole selections."""


def compose_run(root: Path, experiment: str | None, overrides: Sequence[str]) -> dict[str, object]:
    """The settings of a run, every one of them valid.

    Args:
        root: the project.
        experiment: a file of conf/experiment; None: what params.yaml holds.
        overrides: `key=value` of params.yaml, as Hydra takes them.

    Raises:
        ConfigError: the first thing that is wrong, with the nearest that is right.
    """
    check_file_names(root)
    for override in overrides:
        _check_override(override)
    if experiment is None and not overrides:
        params = read_params(root)
        check_params(root, params)
    else:
        params = compose_yaml(root / "conf", "config", dvc_overrides(root, experiment, overrides))
    check_environment(params)
    check_machine_of(check_settings(params))
    _check_folders(root, params)
    return params


def dvc_overrides(root: Path, experiment: str | None, overrides: Sequence[str]) -> list[str]:
    """What `dvc exp run -S` is given.

    Raises:
        ConfigError: there is no such experiment.
    """
    if experiment is None:
        return list(overrides)
    known = sorted(file.stem for file in (root / "conf" / EXPERIMENT).glob("*.yaml"))
    if experiment not in known:
        there = f"there is {', '.join(known)}" if known else f"conf/{EXPERIMENT} has none"
        raise ConfigError(
            f"{experiment}: no such experiment{nearest(experiment, known)} ({there}); a setting is "
            "given as -S key=value"
        )
    return [f"{EXPERIMENT}={experiment}", *overrides]


def _check_override(text: str) -> None:
    """Refuse what Hydra would take for something else, or say nothing clear about."""
    key, equals, value = text.lstrip("+~").partition("=")
    if key == EXPERIMENT and equals:
        raise ConfigError(f"-S {text}: name it without -S: plumbline run {value}")
    if not equals and not text.startswith("~"):
        raise ConfigError(f"-S {text}: key=value is expected, such as -S seed=1")
    # Hydra reads a comma outside of brackets and quotes as a sweep.
    if "," in value and value[:1] not in "[{'\"" and not value.endswith(")"):
        raise ConfigError(
            f"-S {text}: one value for one run; several are a sweep: dvc exp run --queue -S "
            f"'{text}', or plumbline sweep"
        )


def nearest(name: str, known: Sequence[str]) -> str:
    """The part of a message that names what was probably meant."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _check_folders(root: Path, params: Mapping[str, object]) -> None:
    """Refuse data and checkpoints that are not there: DVC says so when other stages have run.

    Raises:
        ConfigError: names the setting, the path and the remedy.
    """
    made = [out for outs in stage_outputs(root, params).values() for out in outs]
    for group in ("datasets", "align", "tasks"):
        for key, entry in entries_of(params, group).items():
            folder = entry.get("weights") if isinstance(entry, Mapping) else None
            if isinstance(folder, str) and not (root / folder).exists():
                _check_made(f"{group}.{key}.weights", folder, made)
    for group, what in (("datasets", "the files of a dataset"), ("weights", "a checkpoint")):
        for key, entry in entries_of(params, group).items():
            path = entry.get("path") if isinstance(entry, Mapping) else None
            if not isinstance(path, str) or (root / path).exists():
                continue
            if any(f"{path}/".startswith(f"{out}/") for out in made):
                continue  # a stage makes it
            tracked = (root / f"{path}.dvc").is_file()
            remedy = f"dvc pull {path}" if tracked else "put it there, or name where it is"
            raise ConfigError(f"{group}.{key}.path = {path}: {what}: not there; {remedy}")


def _check_made(place: str, folder: str, made: Sequence[str]) -> None:
    """Refuse a folder of records that no entry of weights fills."""
    if not any(out.startswith(f"{folder}/") for out in made):
        sets = {Path(out).parent for out in made}
        known = sorted(str(one) for one in sets if one.parent == Path(folder).parent)
        raise ConfigError(
            f"{place} = {folder}: no entry of weights is of that set{nearest(folder, known)}"
        )


def stage_outputs(root: Path, params: Mapping[str, object]) -> dict[str, list[str]]:
    """Every stage of dvc.yaml under these settings, such as `finetune@vqa`, with its outputs.

    Raises:
        ConfigError: dvc.yaml is damaged.
    """
    file = root / "dvc.yaml"
    try:
        stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
        outputs: dict[str, list[str]] = {}
        for name, stage in stages.items():
            if "foreach" not in stage:
                outputs[name] = _outs(stage, "", {})
                continue
            group = str(stage["foreach"]).strip("${}")
            for key, item in entries_of(params, group).items():
                outputs[f"{name}@{key}"] = _outs(stage["do"], key, item)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: not a pipeline of DVC ({reason})") from None
    return outputs


def _outs(stage: Mapping[str, list[object]], key: str, item: object) -> list[str]:
    """The outputs of a stage with what stands for its key filled in."""
    outs = [next(iter(out)) if isinstance(out, Mapping) else str(out) for out in stage["outs"]]
    filled = []
    for out in outs:
        text = str(out).replace("${key}", key)
        for name, value in (item if isinstance(item, Mapping) else {}).items():
            text = text.replace(f"${{item.{name}}}", str(value))
        filled.append(text)
    return filled


def check_targets(targets: Sequence[str], stages: Sequence[str]) -> None:
    """Refuse a target that is no stage; `finetune` stands for all of its keys.

    Raises:
        ConfigError: names the nearest one.
    """
    known = [*stages, *dict.fromkeys(stage.split("@")[0] for stage in stages if "@" in stage)]
    for target in targets:
        if target not in known:
            raise ConfigError(
                f"{target}: no such stage{nearest(target, known)} (there is {', '.join(stages)})"
            )
