"""The winner of a sweep as an experiment of conf/: `conf/experiment/<sweep>_best.yaml`."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.files import atomic_write, digest_of
from plumbline.scratch import scratch_folder
from plumbline.sweep.overrides import is_group, parse, same_params

_GROUP = "experiment"
_SIGNED = re.compile(
    r"# Written by (?:python -m plumbline\.sweep|plumbline sweep) \w+ \(([0-9a-f]{12})\)"
)


def write_best(root: Path, name: str, overrides: Sequence[str], comment: str) -> Path:
    """Write a point as an experiment, once it is proven to compose to the same params.

    Args:
        root: of the project.
        name: of the sweep.
        overrides: all overrides of the point.
        comment: one line on what it reached.

    Raises:
        ConfigError: it cannot be written as an experiment, or a file edited by hand is there.
    """
    conf = root / "conf"
    body = experiment_text(conf, overrides, comment)
    _check(conf, f"{name}_best", body, overrides)
    path = conf / _GROUP / f"{name}_best.yaml"
    if path.is_file() and not is_ours(path.read_text(encoding="utf-8")):
        raise ConfigError(
            f"{path.relative_to(root)}: not written by a sweep, or edited since; it stays as it is "
            "(rename it to have the winner there)"
        )
    head = "# @package _global_\n"
    sign = f"# Written by plumbline sweep {name} ({digest_of(body)[:12]})\n"
    atomic_write(path, head + sign + body)
    return path


def is_ours(text: str) -> bool:
    """Whether a file is just as `write_best` wrote it."""
    head, _, rest = text.partition("\n")
    sign, _, body = rest.partition("\n")
    match = _SIGNED.fullmatch(sign)
    return head == "# @package _global_" and bool(match) and digest_of(body)[:12] == match[1]  # type: ignore[index]


def experiment_text(conf: Path, overrides: Sequence[str], comment: str) -> str:
    """Overrides as the body of an experiment file: choices of groups first, then values.

    Raises:
        ConfigError: an override takes a key away, which a file cannot.
    """
    parents = _default_parents(conf)
    choices: list[object] = []
    values = OmegaConf.create({})
    for text, override in zip(overrides, parse(overrides), strict=True):
        if override.is_delete():
            raise ConfigError(f"{text}: takes a key away, which an experiment file cannot")
        if override.key_or_group == _GROUP:
            parents = _names(override.value())
        elif is_group(override, conf):
            choices.append({_choice_key(override): override.value()})
        else:
            OmegaConf.update(values, override.key_or_group, override.value(), merge=True)
    defaults = OmegaConf.to_yaml(OmegaConf.create({"defaults": [*parents, *choices, "_self_"]}))
    body = OmegaConf.to_yaml(values) if len(values) else ""
    return f"# {comment}\n{defaults}{body}"


def _default_parents(conf: Path) -> list[str]:
    """The experiment that config.yaml chooses: the winner's file takes its place."""
    config = OmegaConf.to_container(OmegaConf.load(conf / "config.yaml"))
    entries = config.get("defaults") if isinstance(config, dict) else None
    for entry in entries or []:
        if isinstance(entry, dict) and _GROUP in entry:
            return _names(entry[_GROUP])
    return []


def _names(value: object) -> list[str]:
    if value is None:
        return []
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]


def _choice_key(override: Override) -> str:
    package = f"@{override.package}" if override.package is not None else ""
    verb = "" if override.is_add() else "override "
    return f"{verb}/{override.key_or_group}{package}"


def _check(conf: Path, name: str, body: str, overrides: Sequence[str]) -> None:
    """Compose both ways in a copy of conf/, where a wrong file does no harm."""
    with scratch_folder() as folder:
        copy = folder / "conf"
        shutil.copytree(conf, copy)
        (copy / _GROUP).mkdir(exist_ok=True)
        (copy / _GROUP / f"{name}.yaml").write_text(
            "# @package _global_\n" + body, encoding="utf-8"
        )
        asked = compose_yaml(conf, "config", overrides)
        given = compose_yaml(copy, "config", [f"{_GROUP}={name}"])
    if not same_params(asked, given):
        raise ConfigError(
            f"the winner cannot be written as an experiment that composes to the same params; run "
            f"it with {' '.join(overrides)}"
        )
