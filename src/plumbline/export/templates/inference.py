"""Answer questions about images with this bundle: onnxruntime, numpy, Pillow and tokenizers.

Everything that varies from model to model stands in contract.json; every file that is loaded is
first compared with its SHA-256 in digests.json.

    python inference.py --image photo.jpg --question 'what color is the circle?'
    python inference.py --selftest
"""

import argparse
import hashlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tokenizers import Tokenizer

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Graph = Callable[[Sequence[NDArray[Any]]], list[Floats]]
"""A part of the model: arrays in, arrays out, in the order of the contract."""

CONTRACT_VERSION = 1
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


class BundleError(Exception):
    """The bundle is damaged or lacks something; the text is one line."""


class InputError(Exception):
    """A request that cannot be answered; the text is one line."""


class TooLargeError(InputError):
    """An image beyond the limits of the contract."""


class Answer(NamedTuple):
    """What the model said."""

    answer: str
    confidence: float
    """Product of the probabilities of its tokens, the end token among them."""
    finish: str
    """end, or length when the answer was cut at max_new_tokens."""


class Files:
    """The files of a bundle, each checked against digests.json before it is used."""

    def __init__(self, folder: Path) -> None:
        """Read the list of digests.

        Raises:
            BundleError: it is missing or damaged.
        """
        self.folder = folder
        try:
            self.digests: dict[str, str] = json.loads((folder / "digests.json").read_bytes())
        except (OSError, ValueError) as error:
            raise BundleError(f"digests.json: not readable ({error})") from None

    def check(self, name: str) -> Path:
        """Compare a file with its digest and return its path.

        Raises:
            BundleError: it is not listed, missing, or its bytes have changed.
        """
        if name not in self.digests:
            raise BundleError(f"{name}: not listed in digests.json, so it is not loaded")
        path = self.folder / name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{name}: {error.strerror}; copy the whole bundle") from None
        if digest != self.digests[name]:
            raise BundleError(f"{name}: its bytes changed after export (SHA-256 differs)")
        return path

    def read(self, name: str) -> bytes:
        """The checked bytes of a file."""
        return self.check(name).read_bytes()


class Preprocessor:
    """From encoded image bytes to pixel values, exactly as in training and evaluation."""

    def __init__(self, contract: dict[str, Any]) -> None:
        """Take sizes, statistics and limits from the section `image` of the contract."""
        self._size = (int(contract["width"]), int(contract["height"]))
        self._filter = Image.Resampling[contract["resize"].upper()]
        self._max_bytes, self._max_pixels = contract["max_bytes"], contract["max_pixels"]
        # (x / 255 - mean) / std as one multiply-add of float32 values, rounded once: what a fused
        # instruction gives. float64 holds the unrounded result exactly.
        mean, std = np.array(contract["mean"]), np.array(contract["std"])
        scale, shift = (v.astype(np.float32).astype(float) for v in (1 / (255 * std), -mean / std))
        exact = np.outer(scale, np.arange(256)) + shift[:, None]
        self._levels: Floats = exact.astype(np.float32)

    def decode(self, data: bytes) -> Image.Image:
        """Decode to 8-bit RGB: first frame, EXIF orientation applied, alpha dropped.

        Raises:
            TooLargeError: more bytes or pixels than the contract allows.
            InputError: the bytes are no image.
        """
        if len(data) > self._max_bytes:
            raise TooLargeError(f"image of {len(data)} bytes, allowed are {self._max_bytes}")
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
            if image.width * image.height > self._max_pixels:
                size = f"{image.width} x {image.height}"
                raise TooLargeError(f"image of {size} pixels, allowed are {self._max_pixels}")
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                # Pillow would clip 16-bit gray at 255 instead of scaling it.
                high = np.asarray(image).astype(np.uint32) >> 8
                image = Image.fromarray(high.astype(np.uint8))
            return image.convert("RGB")
        except InputError:
            raise
        except Image.DecompressionBombError as error:
            raise TooLargeError(f"image: {error}") from None
        except Exception as error:  # decoders raise whatever damaged bytes lead them to
            raise InputError(f"image: cannot be decoded ({type(error).__name__})") from None

    def pixel_values(self, data: bytes) -> Floats:
        """Decode, resize and normalise to [3, height, width], float32.

        Raises:
            InputError: as in `decode`.
        """
        image = self.decode(data)
        if image.size != self._size:
            image = image.resize(self._size, self._filter)
        pixels = np.asarray(image, dtype=np.uint8)
        return np.stack([self._levels[c][pixels[..., c]] for c in range(3)])


def _open_onnx(path: Path, threads: int) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute, options.log_severity_level = True, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Sequence[NDArray[Any]]) -> list[Floats]:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    return run


def _open_torchscript(path: Path, threads: int) -> Graph:
    try:
        import torch
    except ImportError:
        raise BundleError("format torchscript needs torch: pip install torch") from None
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        module = torch.jit.load(str(path), map_location="cpu").eval()

    def run(inputs: Sequence[NDArray[Any]]) -> list[Floats]:
        with torch.inference_mode():
            out = module(*(torch.from_numpy(array) for array in inputs))
        return [tensor.numpy() for tensor in (out if isinstance(out, tuple) else (out,))]

    return run


class Decoding:
    """A batch of answers in the making: the decoder and its key-value cache."""

    def __init__(self, decoder: Graph, sizes: dict[str, int], batch: int) -> None:
        self._decoder, self._width = decoder, sizes["width"]
        shape = (sizes["layers"], batch, sizes["kv_heads"], 0, sizes["head_dim"])
        self._keys = self._values = np.zeros(shape, np.float32)

    def prefill(self, image_embeds: Floats, input_ids: Ids) -> Floats:
        """See the image [batch, image_tokens, width], then the prompts [batch, seq].

        Returns:
            Logits [batch, vocab] of the first token of each answer.
        """
        inputs = (image_embeds, input_ids, self._keys, self._values)
        logits, self._keys, self._values = self._decoder(inputs)
        return logits

    def step(self, tokens: Ids) -> Floats:
        """See one more token each, [batch]; returns the logits [batch, vocab] of the next."""
        return self.prefill(np.zeros((len(tokens), 0, self._width), np.float32), tokens[:, None])


class Model:
    """The bundle, loaded: `Model().answer(image_bytes, question)`. Safe to use from threads."""

    def __init__(
        self, folder: str | Path | None = None, *, format: str | None = None, threads: int = 0
    ) -> None:
        """Check and open the files.

        Args:
            folder: the bundle; None: where this script lies.
            format: onnx or torchscript; None: the default of the contract.
            threads: compute threads; 0: as in the contract.

        Raises:
            BundleError: a file is missing or has changed, or the format is not there.
        """
        files = Files(Path(__file__).resolve().parent if folder is None else Path(folder))
        contract = json.loads(files.read("contract.json"))
        if contract.get("contract_version") != CONTRACT_VERSION:
            raise BundleError("contract.json: of another version than this script")
        self.files, self.contract = files, contract
        formats, self.format = contract["formats"], format or contract["default_format"]
        if self.format not in formats:
            raise BundleError(f"format {self.format}: not in this bundle ({', '.join(formats)})")
        opener = _open_onnx if self.format == "onnx" else _open_torchscript
        names, threads = formats[self.format], threads or contract["threads"]
        for name in names.get("external", []):
            files.check(name)
        self._vision = opener(files.check(names["vision"]), threads)
        self._decoder = opener(files.check(names["decoder"]), threads)
        self.preprocessor = Preprocessor(contract["image"])
        self._tokenizer = Tokenizer.from_buffer(files.read("tokenizer.json"))
        # `<pad>` typed by a person is text; the flag is not part of tokenizer.json.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids that lead the answer: the question, cut to its longest length, then bos.

        Raises:
            InputError: the question is empty, too long, or no text.
        """
        text = self.contract["text"]
        if not question.strip():
            raise InputError("question: empty")
        if len(question) > text["max_prompt_chars"]:
            raise InputError(f"question: longer than {text['max_prompt_chars']} characters")
        if any("\ud800" <= character <= "\udfff" for character in question):
            raise InputError("question: holds half of a surrogate pair")
        ids: list[int] = self._tokenizer.encode(question, add_special_tokens=False).ids
        return [*ids[: text["max_prompt_tokens"]], text["special_ids"]["bos"]]

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's token ids."""
        return str(self._tokenizer.decode(list(ids)))

    def embed(self, pixel_values: Floats) -> Floats:
        """Map [batch, 3, height, width] to [batch, image_tokens, width]."""
        return self._vision([pixel_values])[0]

    def decoding(self, batch: int) -> Decoding:
        """Begin a batch of answers."""
        return Decoding(self._decoder, self.contract["decoder"], batch)

    def generate(self, image_embeds: Floats, prompt: Sequence[int]) -> tuple[list[int], float]:
        """Answer one prompt greedily: token ids, with eos unless cut off, and the confidence."""
        text, tokens, confidence = self.contract["text"], list[int](), 1.0
        decoding = self.decoding(1)
        logits = decoding.prefill(image_embeds, np.array([prompt], np.int64))
        while True:
            tokens.append(int(logits[0].argmax()))
            confidence *= _probability(logits[0], tokens[-1])
            if tokens[-1] == text["special_ids"]["eos"] or len(tokens) == text["max_new_tokens"]:
                return tokens, confidence
            logits = decoding.step(np.array(tokens[-1:], np.int64))

    def answer(self, image: bytes, question: str | None = None) -> Answer:
        """Answer a question about an encoded image; None: describe it.

        Raises:
            InputError: the image or the question cannot be used.
        """
        text = self.contract["text"]
        prompt = self.prompt_ids(text["caption_prompt"] if question is None else question)
        embeds = self.embed(self.preprocessor.pixel_values(image)[None])
        tokens, confidence = self.generate(embeds, prompt)
        ended = tokens[-1] == text["special_ids"]["eos"]
        said = self.text(tokens[:-1] if ended else tokens)
        return Answer(said, confidence, "end" if ended else "length")


def _probability(logits: Floats, token: int) -> float:
    """Softmax of [vocab] at one token, in float64.

    Raises:
        InputError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise InputError("the model gave no finite scores for this input")
    exps = np.exp(logits.astype(np.float64) - float(logits.max()))
    return float(exps[token] / exps.sum())


def pixel_digest(pixel_values: Floats) -> str:
    """SHA-256 of pixel values as little-endian float32 in row-major order."""
    return hashlib.sha256(np.ascontiguousarray(pixel_values, "<f4").tobytes()).hexdigest()


def selftest(model: Model) -> dict[str, Any]:
    """Repeat the stored samples and compare pixels bit for bit, answers word for word.

    Raises:
        BundleError: something differs from what was recorded at export.
    """
    for name in model.files.digests:
        if name != "server.json":  # its settings are for whoever runs the server to change
            model.files.check(name)
    expected = json.loads(model.files.read("selftest/selftest.json"))
    for sample in [*expected["preprocessing"], *expected["answers"]]:
        pixels = model.preprocessor.pixel_values(model.files.read(sample["image"]))
        if pixel_digest(pixels) != sample["pixels_sha256"]:
            raise BundleError(f"{sample['image']}: preprocessing gives other pixel values")
    for sample in expected["answers"]:
        got = model.answer(model.files.read(sample["image"]), sample["question"])
        sure = abs(got.confidence - sample["confidence"]) <= expected["confidence_tolerance"]
        if got.answer != sample["answer"] or not sure:
            wanted = f"expected {sample['answer']!r} ({sample['confidence']})"
            said = f"answered {got.answer!r} ({got.confidence})"
            raise BundleError(f"{sample['image']}: {said}, {wanted}")
    counts = {name: len(expected[name]) for name in ("preprocessing", "answers")}
    return {"selftest": "ok", "format": model.format, **counts}


def run_batch(model: Model, requests: Path) -> int:
    """Answer JSON lines of an image, relative to their file, and a question or none.

    A request that cannot be answered gives a line with `error`, and the exit code 1.
    """
    failed = 0
    for line in _read_input(requests).splitlines():
        try:
            request = json.loads(line)
            image = _read_input(requests.parent / request["image"])
            result = model.answer(image, request.get("question"))._asdict()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            result = {"error": f"no request: {type(error).__name__}"}
        except InputError as error:
            result = {"error": str(error)}
        failed += "error" in result
        print(json.dumps(result, allow_nan=False), flush=True)
    return 1 if failed else 0


def _read_input(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answer questions about images.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", type=Path, help="an image file")
    what.add_argument("--batch", type=Path, help="JSON lines with image and question")
    what.add_argument("--selftest", action="store_true", help="compare with what was exported")
    ask = parser.add_mutually_exclusive_group()
    ask.add_argument("--question", help="what to ask about the image")
    ask.add_argument("--describe", action="store_true", help="do not ask (the default)")
    parser.add_argument("--format", choices=("onnx", "torchscript"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parsed = _parse_arguments(arguments)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused with our own error
    try:
        model = Model(format=parsed.format)
        if parsed.batch:
            return run_batch(model, parsed.batch)
        if parsed.selftest:
            result = selftest(model)
        else:
            result = model.answer(_read_input(parsed.image), parsed.question)._asdict()
    except (BundleError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
