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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbline import paths
from plumbline.data.arrays import decode_features
from plumbline.data.images import Mode, decode_image, resize_image
from plumbline.data.undecodable import UndecodableError
from plumbline.errors import ConfigError, DataError, PlumblineError
from plumbline.names import check_name
from plumbline.text import one_line, shown

Options = argparse.Namespace
Answer = dict[str, Any]


def read_image(path: Path, size: int, channels: int) -> Any:
    """Pixels [size, size, channels] uint8 of an image file, as the cache would hold them.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no image.
    """
    mode: Mode = "L" if channels == 1 else "RGB"
    try:
        return resize_image(decode_image(_read(path), mode), size, size)
    except UndecodableError as error:
        raise DataError(f"{path}: no image that can be decoded ({error})") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def answer_vlm(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """Answer a question about an image, or describe it where there is none."""
    from plumbline.evaluation.generation import generate_answers
    from plumbline.models.features import encode_images

    spec, model = stored.spec, stored.model
    size = spec.image_encoder.image_size
    pixels = read_image(options.image, size, spec.normalization.channels)[np.newaxis]
    features = encode_images(model.image_encoder, pixels, spec.normalization, size, device)
    prompt = spec.caption_prompt if options.question is None else options.question
    whole = stored.text.encode(prompt, add_special_tokens=False).ids
    ids = whole[: spec.max_text_tokens]
    if not ids:
        raise ConfigError("--question: empty; ask something, or leave it out for a caption")
    answer = generate_answers(
        model,
        features.to(device),
        [0],
        [ids],
        bos=spec.special_ids.bos,
        eos=spec.special_ids.eos,
        max_new_tokens=options.max_new_tokens or 64,
    )[0]
    return {
        "prompt": prompt,
        "answer": stored.text.decode(answer),
        **_cut(len(whole) - len(ids)),
    }


def headed_inputs(stored: Any, options: Options, folder: Path) -> tuple[dict[str, Any], Answer]:
    """The inputs of a classifier or regressor, as evaluation makes them of the cache.

    Returns:
        The inputs, and what the answer says of those that were cut.

    Raises:
        ConfigError: the file cannot be read, or the features' statistics are not here.
        DataError: it is not what the model takes.
    """
    import torch

    from plumbline.data.audio import decode_mono
    from plumbline.loading.audio_transforms import log_mel
    from plumbline.loading.inputs import collate_texts
    from plumbline.loading.transforms import normalize_images

    config, modality = stored.spec.inputs, stored.spec.inputs.modality
    if modality == "image":
        size = stored.spec.model.encoder.image_size
        pixels = read_image(options.image, size, config.normalize.channels)
        stacked = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        return {"pixel_values": normalize_images(stacked, config.normalize)}, {}
    if modality == "text":
        if stored.spec.model.encoder.takes_strings:
            return {"texts": [options.text]}, {}
        ids = stored.text.encode(options.text, add_special_tokens=False).ids
        batch = collate_texts([np.array(ids, np.int64)], stored.spec.special_ids, config.max_tokens)
        return batch, _cut(len(ids) - config.max_tokens)
    path: Path = getattr(options, modality)
    try:
        if modality == "audio":
            samples = torch.from_numpy(decode_mono(_read(path), config.sample_rate))
            steps, mask = log_mel(samples[None], torch.tensor([len(samples)]), config)
            return {"steps": steps, "mask": mask}, {}
        values = decode_features(_read(path))
    except UndecodableError as error:
        raise DataError(f"{path}: no {modality} that can be decoded ({error})") from None
    if values.shape[1] != stored.spec.channels:
        raise DataError(f"{path}: {values.shape[1]} channels, expected {stored.spec.channels}")
    steps = torch.from_numpy(_standardize(values[: config.max_steps], config, folder))[None]
    cut = {"cut_steps": len(values) - steps.shape[1]} if len(values) > steps.shape[1] else {}
    return {"steps": steps, "mask": torch.ones(steps.shape[:2], dtype=torch.bool)}, cut


def _standardize(values: Any, config: Any, folder: Path) -> Any:
    """Bring the channels to the scale of training, whose figures stand in the cache."""
    from plumbline.files import read_json

    if not config.standardize:
        return np.array(values)
    place = paths.cache(str(read_json(folder / "config.json").get("data"))) / "cache.json"
    if not place.is_file():
        raise ConfigError(f"{place}: missing, it holds the statistics of the features; dvc repro")
    facts = read_json(place)["features"]
    mean = np.array(facts["mean_of_channels"], np.float32)
    std = np.maximum(np.array(facts["std_of_channels"], np.float32), 1e-6)
    return ((values - mean) * (1 / std)).astype(np.float32)


def _outputs(
    stored: Any, options: Options, device: Any, folder: Path
) -> tuple[dict[str, Any], Answer]:
    """The outputs of every head, and what the answer says of an input that was cut."""
    import torch

    from plumbline.models.device import to_device

    inputs, cut = headed_inputs(stored, options, folder)
    with torch.inference_mode():
        outputs = stored.model(**to_device(inputs, device))
    return {part: values.float().cpu().numpy() for part, values in outputs.items()}, cut


def answer_classification(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The class of each head, with the probabilities of all classes."""
    from plumbline.evaluation.classification import softmax

    (logits, cut), heads = _outputs(stored, options, device, folder), {}
    for part, names in stored.spec.classes.items():
        row = softmax(logits[part])[0]
        heads[part] = {
            "class": names[int(row.argmax())],
            "confidence": float(row.max()),
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
    answer: Answer = next(iter(heads.values())) if len(heads) == 1 else {"heads": heads}
    return {**answer, **cut}


def answer_regression(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The number of each head, in the units of the data."""
    (outputs, cut), spec = _outputs(stored, options, device, folder), stored.spec
    values = {
        part: float(outputs[part][0, 0]) * spec.std[part] + spec.mean[part] for part in spec.parts
    }
    answer = {"value": next(iter(values.values()))} if len(values) == 1 else {"values": values}
    return {**answer, **cut}


def answer_causal_lm(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """What the model adds to a prompt."""
    from plumbline.config import check_config
    from plumbline.evaluation.config import SamplingConfig
    from plumbline.evaluation.sampling import continue_text

    given = {name: getattr(options, name) for name in SamplingConfig.model_fields}
    given = {name: value for name, value in given.items() if value is not None}
    flags = {name: f"--{name.replace('_', '-')}" for name in given}
    values = {flags[name]: value for name, value in given.items()}
    config = check_config(SamplingConfig, flags, values)
    said = continue_text(stored.model, stored.spec, stored.text, options.prompt, config)
    return {"prompt": options.prompt, "text": said.text, **_cut(said.cut_tokens)}


def _cut(tokens: int) -> Answer:
    """What an answer says of an input that was cut."""
    return {"cut_tokens": tokens} if tokens > 0 else {}


def answer_masked_lm(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The likeliest tokens of each gap of a text."""
    import torch

    from plumbline.export.language import takes_space
    from plumbline.export.templates.language import fill_gaps, gap_ids, split_gaps

    spec, tokenizer = stored.spec, stored.text
    mask = tokenizer.id_to_token(spec.mask_id)
    segments = split_gaps(options.text, mask, takes_space(tokenizer))
    if len(segments) < 2:
        raise ConfigError(f"--text: has no {mask} to fill")
    frame = None if spec.packed else (spec.special_ids.bos, spec.special_ids.eos)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    ids = torch.tensor([gap_ids(segments, encode, spec.mask_id, frame)], device=device)
    if ids.shape[1] > spec.block_size:
        raise ConfigError(f"--text: {ids.shape[1]} tokens, the model takes {spec.block_size}")
    with torch.inference_mode():
        logits = stored.model(ids, torch.ones_like(ids))[0][ids[0] == spec.mask_id]
    return fill_gaps(
        segments, logits.float().cpu().numpy(), options.candidates or 5, decode_with(stored)
    )


def decode_with(stored: Any) -> Callable[[list[int]], str]:
    """The text of token ids."""
    return lambda ids: str(stored.text.decode(ids))


def answer_seq2seq(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The target of a source."""
    spec = stored.spec
    ids = stored.text.encode(options.source, add_special_tokens=False).ids
    target = stored.model.generate(
        [[*ids[: spec.max_source_tokens], spec.special_ids.eos]],
        beams=options.beams or 4,
        length_penalty=1.0 if options.length_penalty is None else options.length_penalty,
        limit=options.max_new_tokens or 100,
    )[0]
    return {
        "source": options.source,
        "text": stored.text.decode(target),
        **_cut(len(ids) - spec.max_source_tokens),
    }


Predictor = Callable[[Any, Options, Any, Path], Answer]

SAMPLING = ("max_new_tokens", "temperature", "top_k", "top_p", "stop", "seed")

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
