"""A project with every kind of source, task and stage in it, whose params.yaml names every key.

Its datasets and tasks are those of test_kinds.py and the smoke preset's.
"""

from pathlib import Path
from typing import Any

import yaml

from plumbline.config import Config, check_config, compose_yaml
from plumbline.params import installed_versions
from stages.check_params import specs
from tests.pipeline.checkout import ROOT, Checkout, make_checkout
from tests.pipeline.test_kinds import ALIGN, DATASETS, TASKS, write_data


def plain(value: Any) -> Any:
    """Settings as mappings, lists and scalars, every field written out."""
    if isinstance(value, Config):
        return {name: plain(inner) for name, inner in vars(value).items()}
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def put(params: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        params = params[part]
    params[last] = value


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf; lists and empty mappings are leaves."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    return {
        key: value
        for name, inner in node.items()
        for key, value in leaves(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def written_out(params: dict[str, Any]) -> dict[str, Any]:
    """The same settings with the defaults of every stage's schema written into them."""
    full: dict[str, Any] = yaml.safe_load(yaml.safe_dump(params))
    for spec in specs():
        for key in params[spec.group] if spec.group else []:
            sections = spec.sections(key)
            config = check_config(spec.schema_for(key, params), sections, params)
            for field, dotted in sections.items():
                put(full, dotted, plain(vars(config)[field]))
    return full


def every_kind() -> dict[str, Any]:
    """The parameters."""
    smoke = compose_yaml(ROOT / "conf", "config", ["experiment=smoke"])
    return written_out(
        {
            "versions": installed_versions(),
            "seed": 0,
            "threads": 1,
            "datasets": {**smoke["datasets"], **DATASETS},
            "align": {**smoke["align"], **ALIGN},
            "tasks": {**smoke["tasks"], **TASKS},
        }
    )


def write_project(folder: Path) -> Checkout:
    """A checkout whose conf/ composes to the parameters, with the data in place."""
    checkout = make_checkout(folder)
    params = every_kind()
    versions = params.pop("versions")
    text = yaml.safe_dump({"defaults": ["versions", "_self_"]} | params, sort_keys=False)
    (folder / "conf/config.yaml").write_text(text)
    (folder / "params.yaml").write_text(
        yaml.safe_dump({"versions": versions} | params, sort_keys=False)
    )
    write_data(folder / "data")
    return checkout
