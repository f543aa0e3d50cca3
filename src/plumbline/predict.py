"""Ask a trained model: `python -m plumbline.predict TASK` with what its kind takes.

a vision-language model   --image x.png --question 'what is it?'
a classifier, a regressor --image x.png | --audio x.wav | --features x.npy | --text 'some words'
a causal language model   --prompt 'Once' --temperature 0.8 --top-k 50 --stop '.' --seed 1
a masked language model   --text 'to be or <mask> to be' --candidates 3
an encoder-decoder        --source 'a dog runs' --beams 4
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbline import paths
from plumbline.asking import Answer, Options, Predictor, _read
from plumbline.errors import ConfigError, PlumblineError
from plumbline.kinds.causal_lm.ask import SAMPLING, answer_causal_lm
from plumbline.kinds.classification.ask import answer_classification
from plumbline.kinds.masked_lm.ask import answer_masked_lm
from plumbline.kinds.regression.ask import answer_regression
from plumbline.kinds.seq2seq.ask import answer_seq2seq
from plumbline.kinds.vlm.ask import answer_vlm
from plumbline.names import check_name
from plumbline.text import one_line, shown

PREDICTORS: dict[str, tuple[Predictor, str | None, tuple[str, ...]]] = {
    "vlm": (answer_vlm, "image", ("question", "max_new_tokens")),
    "classification": (answer_classification, None, ()),
    "regression": (answer_regression, None, ()),
    "causal_lm": (answer_causal_lm, "prompt", SAMPLING),
    "masked_lm": (answer_masked_lm, "text", ("candidates",)),
    "seq2seq": (answer_seq2seq, "source", ("beams", "length_penalty", "max_new_tokens")),
}
"""Kind -> what answers, what must be given (None: the modality of its inputs), what may be."""


def predict(folder: Path, options: Options) -> Answer:
    """Ask the model of a folder.

    Args:
        folder: a model as `finetune` writes it.
        options: what `build_parser` parses.

    Returns:
        The answer, and the `device` that was used.

    Raises:
        ConfigError: there is no model there, an option is missing, or is not for its kind.
        DataError: a file cannot be decoded.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no model there; run dvc repro, or name another task")
    from plumbline.models.device import resolve_device
    from plumbline.models.stored import load_model, read_spec

    spec: Any = read_spec(folder)
    if spec.kind not in PREDICTORS:
        raise ConfigError(f"{folder}: a model of kind {spec.kind} is not asked from here")
    predictor, required, optional = PREDICTORS[spec.kind]
    needed = spec.inputs.modality if required is None else required
    _check_options(options, spec.kind, needed, optional)
    if needed in FILES:
        _read(getattr(options, needed))
    device = resolve_device("auto")
    stored = load_model(folder)
    stored.model.to(device)
    return {**predictor(stored, options, device, folder), "device": str(device)}


FILES = ("image", "audio", "features")
NOT_ASKED = ("task", "model")


def _check_options(options: Options, kind: str, needed: str, optional: Sequence[str]) -> None:
    given = [n for n, v in vars(options).items() if v is not None and n not in NOT_ASKED]
    if needed not in given:
        raise ConfigError(f"--{needed}: missing; a model of kind {kind} is asked with it")
    for name in given:
        if name != needed and name not in optional:
            flags = ", ".join(f"--{n.replace('_', '-')}" for n in (needed, *optional))
            raise ConfigError(f"--{name.replace('_', '-')}: not for kind {kind}; it takes {flags}")
    for name in ("max_new_tokens", "candidates", "beams"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} = {value}: at least 1")


def build_parser() -> argparse.ArgumentParser:
    """The command line; which options a model takes is known once its kind is."""
    parser = argparse.ArgumentParser(
        prog="python -m plumbline.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", help="a task of params.yaml, such as vqa")
    parser.add_argument("--model", type=Path, help="a model folder in place of the task's")
    for name in FILES:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--question", help="left out: describe the image")
    for name in ("text", "prompt", "source"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument("--temperature", type=float, metavar="X", help="0: the likeliest tokens")
    parser.add_argument("--top-k", type=int, metavar="N")
    parser.add_argument("--top-p", type=float, metavar="X")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="may be given repeatedly")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--candidates", type=int, metavar="N", help="tokens named for a gap")
    parser.add_argument("--beams", type=int, metavar="N", help="1: greedy")
    parser.add_argument("--length-penalty", type=float, metavar="X")
    return parser


def main(arguments: Sequence[str]) -> None:
    """Print the answer as one JSON line."""
    options = build_parser().parse_args(arguments)
    if options.model is None:
        check_name("task", options.task)
    answer = predict(options.model or paths.finetuned(options.task), options)
    print(shown(json.dumps(answer, ensure_ascii=False)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PlumblineError as error:
        sys.exit(f"error: {one_line(str(error))}")
