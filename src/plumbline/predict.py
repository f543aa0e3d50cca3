"""Ask a trained model: `python -m plumbline.predict vqa --image x.png --question 'what is it?'`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from plumbline import paths
from plumbline.data.images import decode_rgb, resize_rgb
from plumbline.errors import ConfigError, DataError, PlumblineError


def predict(
    folder: Path, image: Path, question: str | None, *, max_new_tokens: int = 64
) -> dict[str, Any]:
    """Answer a question about an image file, or describe it when there is none.

    Args:
        folder: a model as `finetune` writes it.
        image: any image that Pillow reads.
        question: None asks for a caption.
        max_new_tokens: longest answer.

    Returns:
        `prompt`, `answer` and the `device` that was used.

    Raises:
        ConfigError: there is no model or no image at these places.
        DataError: the image cannot be decoded.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no model there; run dvc repro, or name another task")
    try:
        data = image.read_bytes()
    except OSError as error:
        raise ConfigError(f"{image}: {error.strerror}") from None
    from plumbline.evaluation.generation import generate_answers
    from plumbline.models.device import resolve_device
    from plumbline.models.features import encode_images
    from plumbline.models.stored import load_vlm

    stored = load_vlm(folder)
    spec = stored.spec
    size = spec.image_encoder.image_size
    try:
        pixels = resize_rgb(decode_rgb(data), size, size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{image}: no image that can be decoded ({error})") from None
    device = resolve_device("auto")
    model = stored.model.to(device).eval()
    features = encode_images(
        model.image_encoder, pixels[np.newaxis], spec.normalization, size, device
    ).to(device)
    prompt = question or spec.caption_prompt
    ids = stored.text.encode(prompt, add_special_tokens=False).ids[: spec.max_text_tokens]
    if not ids:
        raise ConfigError("--question: empty; ask something, or leave it out for a caption")
    answer = generate_answers(
        model,
        features,
        [0],
        [ids],
        bos=spec.special_ids.bos,
        eos=spec.special_ids.eos,
        max_new_tokens=max_new_tokens,
    )[0]
    return {"prompt": prompt, "answer": stored.text.decode(answer), "device": str(device)}


def main(arguments: Sequence[str]) -> None:
    """Print the answer as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m plumbline.predict", description=__doc__)
    parser.add_argument("task", help="a task of params.yaml, such as vqa")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--question", help="left out: describe the image")
    parser.add_argument("--model", type=Path, help="a model folder in place of the task's")
    options = parser.parse_args(arguments)
    folder = options.model or paths.finetuned(options.task)
    print(json.dumps(predict(folder, options.image, options.question), ensure_ascii=False))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PlumblineError as error:
        sys.exit(f"error: {error}")
