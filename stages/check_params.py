"""Stage `check_params`: params.yaml is what conf/ composes to, and every setting is valid.

`python -m stages.check_params --write` (make params) composes params.yaml anew.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbline import paths
from plumbline.config import check_config
from plumbline.errors import ConfigError
from plumbline.files import atomic_write
from plumbline.names import check_name
from plumbline.params import (
    check_environment,
    check_params,
    compose_params,
    read_params,
    write_params,
)
from plumbline.stage import StageSpec, run_stage

STAGES = (
    "prepare",
    "validate",
    "detect_shapes",
    "tokenize_text",
    "pretrain_alignment",
    "evaluate_alignment",
    "finetune",
    "evaluate_model",
    "export_model",
    "report",
)


def specs() -> list[StageSpec[Any]]:
    """What every stage reads of params.yaml."""
    return [importlib.import_module(f"stages.{name}").SPEC for name in STAGES]


def check_settings(params: dict[str, Any]) -> None:
    """Validate the sections of all stages, and that names refer to something.

    Raises:
        ConfigError: the first setting that is wrong.
    """
    for spec in specs():
        keys = [""] if spec.group is None else list(params.get(spec.group) or {})
        for key in keys:
            check_config(spec.schema_for(key, params), spec.sections(key), params)
    for group in ("align", "tasks"):
        for name, entry in params[group].items():
            if entry["data"] not in params["datasets"]:
                known = ", ".join(params["datasets"])
                raise ConfigError(
                    f"{group}.{name}.data = {entry['data']!r}: no such dataset is selected; "
                    f"datasets are {known or 'none'}"
                )
    for name, entry in params["tasks"].items():
        _check_tokenizer(f"tasks.{name}.train.model.decoder", entry, "decoder", params)
    for name, entry in params["align"].items():
        _check_tokenizer(f"align.{name}.train.model.text_encoder", entry, "text_encoder", params)


def check_file_names(root: Path) -> None:
    """Check the names of what `experiment=` and a sweep choose: they go into commands as well.

    Raises:
        ConfigError: names the file and the rule.
    """
    for folder in (root / "conf" / "experiment", root / "sweeps"):
        for file in sorted(folder.glob("*.yaml")):
            check_name(file.relative_to(root).as_posix(), file.stem)


def _check_tokenizer(key: str, entry: dict[str, Any], part: str, params: dict[str, Any]) -> None:
    """A pretrained part reads ids of its own vocabulary: the dataset must be tokenised so.

    Raises:
        ConfigError: the dataset has another tokenizer; both keys are named.
    """
    pretrained = entry["train"]["model"].get(part, {}).get("pretrained")
    dataset = params["datasets"][entry["data"]]
    tokenizer = dataset.get("tokenize", {}).get("tokenizer", {}).get("pretrained")
    if pretrained and pretrained != tokenizer:
        raise ConfigError(
            f"{key}.pretrained = {pretrained!r}, but datasets.{entry['data']}.tokenize.tokenizer."
            f"pretrained = {tokenizer!r}: ids would mean other words; set both to the same"
        )


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
    check_settings(params)
    for parent in paths.REPORT_READS:
        parent.mkdir(parents=True, exist_ok=True)  # a selection may leave one of them empty
    atomic_write(paths.CHECK_PARAMS, "params.yaml has been checked\n")


if __name__ == "__main__":
    run_stage(main)
