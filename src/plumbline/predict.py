"""Ask a trained model, of whatever kind."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbline.asking import Answer, Ask, Options, read_bytes
from plumbline.errors import ConfigError
from plumbline.imports import importing
from plumbline.kind import KINDS, Kind, known_kinds


def predict(folder: Path, options: Options) -> Answer:
    """Ask the model of a folder.

    Args:
        folder: a model as `finetune` writes it.
        options: what `add_options` takes.

    Returns:
        The answer, and the `device` that was used.

    Raises:
        ConfigError: there is no model there, an option is missing, or is not for its kind.
        DataError: a file cannot be decoded.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no model there; run dvc repro, or name another task")
    with importing():
        from plumbline.models.device import resolve_device
        from plumbline.models.stored import load_model, read_spec

    spec: Any = read_spec(folder)
    ask = _ask_of(known_kinds()[spec.kind])
    if ask is None:
        raise ConfigError(f"{folder}: a model of kind {spec.kind} is not asked from here")
    needed = spec.inputs.modality if ask.required is None else ask.required
    _check_options(options, spec.kind, needed, ask)
    if needed in FILES and getattr(options, needed) is not None:
        read_bytes(getattr(options, needed))
    device = resolve_device("auto")
    stored = load_model(folder)
    stored.model.to(device)
    return {**ask.answer(stored, options, device, folder), "device": str(device)}


def _ask_of(kind: Kind) -> Ask | None:
    """How a kind is asked; None: it is not."""
    return getattr(kind.role("ask"), "ASK", None) if kind.has("ask") else None


FILES = ("image", "audio", "features")
NOT_ASKED = ("task", "model")


def _check_options(options: Options, kind: str, needed: str, ask: Ask) -> None:
    given = [n for n, v in vars(options).items() if v is not None and n not in NOT_ASKED]
    either = f"--{needed}, or --{ask.instead}" if ask.instead else f"--{needed}"
    if needed not in given and ask.instead not in given:
        raise ConfigError(f"{either}: missing; a model of kind {kind} is asked with it")
    if needed in given and ask.instead in given:
        raise ConfigError(f"{either}: one of them, not both")
    for name in given:
        if name != needed and name not in ask.options:
            flags = ", ".join(_flag(option) for option in (needed, *ask.options))
            raise ConfigError(f"{_flag(name)}: not for kind {kind}; it takes {flags}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all kinds; which ones a model takes, its kind says."""
    parser.add_argument("task", help="a task of params.yaml, such as vqa")
    parser.add_argument("--model", type=Path, help="a model folder in place of the task's")
    flags: dict[str, Mapping[str, Any]] = {
        **{name: {"type": Path, "metavar": "FILE"} for name in FILES},
        "text": {"metavar": "TEXT"},
    }
    for kind in KINDS.entries().values():
        if ask := _ask_of(kind):
            required: dict[str, Mapping[str, Any]] = (
                {} if ask.required is None else {ask.required: {}}
            )
            flags = {**required, **flags, **ask.options}
    for name, settings in flags.items():
        parser.add_argument(_flag(name), **settings)
