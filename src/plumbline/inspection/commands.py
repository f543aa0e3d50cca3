"""What can be asked of a training before it runs: names, options and where the code is."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plumbline.training.config import OverfitConfig


@dataclass(frozen=True)
class Command:
    """One thing to ask."""

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    place: str
    """`module:function` from a Target and the options to a Report."""


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must lie between 0 and 1")
    return value


def _one_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=_positive, help="in the batch; default: the loader's")


def _graph(parser: argparse.ArgumentParser) -> None:
    _one_batch(parser)
    parser.add_argument("--depth", type=_positive, help="levels of modules; default: all")
    parser.add_argument("--out", type=Path, help="also write a file: .txt, .dot or .mmd (Mermaid)")


def _activations(parser: argparse.ArgumentParser) -> None:
    _one_batch(parser)
    parser.add_argument("--depth", type=_positive, help="levels of modules; default: all")
    parser.add_argument("--tensors", type=Path, help="also write the outputs: a .safetensors file")


def _batch_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max", type=_positive, default=4096, help="largest size (4096)")
    parser.add_argument("--repeats", type=_positive, default=7, help="counted steps a size (7)")
    parser.add_argument("--seconds", type=_positive, default=120, help="for all sizes (120)")
    parser.add_argument("--memory-mb", type=_positive, help="limit; default: 90 %% of what is free")


def _overfit(parser: argparse.ArgumentParser) -> None:
    usual = OverfitConfig()
    parser.add_argument(
        "--samples", type=_positive, default=usual.samples, help="in the batch (%(default)s)"
    )
    parser.add_argument(
        "--steps", type=_positive, default=usual.steps, help="at most (%(default)s)"
    )
    parser.add_argument(
        "--share",
        type=_share,
        default=usual.share,
        help="of the first loss to get below (%(default)s)",
    )


COMMANDS = {
    "parameters": Command(
        "parameters, memory and operations by part",
        _one_batch,
        "plumbline.inspection.parameters:inspect",
    ),
    "memory": Command(
        "what a training step takes, by the size of its micro-batches, without taking it",
        lambda parser: None,
        "plumbline.inspection.memory:inspect",
    ),
    "graph": Command(
        "the modules and the shapes of what they give", _graph, "plumbline.inspection.graph:inspect"
    ),
    "activations": Command(
        "statistics of every layer's output, attention by head, predictions",
        _activations,
        "plumbline.inspection.activations:inspect",
    ),
    "batch-size": Command(
        "samples per second and memory by batch size, and the best",
        _batch_size,
        "plumbline.inspection.batch_size:inspect",
    ),
    "supervision": Command(
        "the first samples as text, with what carries loss marked",
        _one_batch,
        "plumbline.inspection.supervision:inspect",
    ),
    "overfit": Command(
        "whether one batch can be learnt by heart; exit code 1 if not",
        _overfit,
        "plumbline.inspection.overfit:inspect",
    ),
}


def parse_rest(name: str, what: str, rest: list[str]) -> argparse.Namespace:
    """Read what follows `<task or alignment> <what>`: options and overrides, in any order.

    Returns:
        `name`, `overrides`, `json` and the options of the command.
    """
    command = COMMANDS[what]
    parser = argparse.ArgumentParser(
        prog=f"plumbline inspect {name} {what}", description=command.help
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of params.yaml")
    parser.add_argument("--json", action="store_true", help="print JSON")
    command.add_options(parser)
    options = parser.parse_intermixed_args(rest)
    options.name = name
    return options
