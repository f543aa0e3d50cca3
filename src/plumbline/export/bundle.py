"""The folder that runs by itself: model, contract, scripts, server, self-test."""

import importlib.metadata
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from plumbline.errors import ExportError
from plumbline.export.config import ExportConfig, Format
from plumbline.export.graphs import (
    DecoderSizes,
    GraphSpec,
    decoder_sizes,
    decoder_spec,
    vision_spec,
)
from plumbline.export.onnx_writer import external_name, write_onnx
from plumbline.export.parity import check_parity, measure_parity, reference_answers
from plumbline.export.samples import choose_samples
from plumbline.export.selftest import write_selftest
from plumbline.export.templates.inference import CONTRACT_VERSION, Model
from plumbline.files import dump_json, write_digests
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import SPEC, StoredVlm
from plumbline.models.weights import WEIGHTS, save_weights
from plumbline.tokenization.tokenizer import FILE_NAME

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_FILES = ("inference.py", "server.py", "README.md", "Dockerfile")
RUNTIME_PACKAGES = ("numpy", "onnxruntime", "pillow", "tokenizers")
BUILD_PACKAGES = ("onnx", "onnxscript", "safetensors", "torch", "torchvision", "transformers")
MAX_PROMPT_CHARS = 10_000
PARTS = ("vision", "decoder")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleSource:
    """What a bundle is made from."""

    stored: StoredVlm
    cache: TrainingCache
    training: Mapping[str, Any]
    """The settings of the training, as plain JSON types."""
    threads: int


def write_bundle(source: BundleSource, config: ExportConfig, out: Path) -> dict[str, Any]:
    """Write the bundle of a vision-language model into the empty folder `out`.

    Returns:
        Facts for the run record: seconds and parity by format.

    Raises:
        ExportError: the cached images are not of the model's size, no format could be written, or
            an exported model disagrees with the checkpoint.
        DataError: the split for samples does not exist.
    """
    started = time.monotonic()
    if config.formats:
        _check_image_size(source)
    _write_weights(source, out)
    # A checkpoint in half precision is computed in float32 from here on, on both sides.
    source.stored.model.float().cpu().eval()
    sizes = decoder_sizes(source.stored.model)
    formats = _write_formats(source, config, sizes, out)
    _write_json(out / "contract.json", _contract(source, config, sizes, formats))
    if config.formats:
        write_digests(out)  # the bundle's own script is what parity is measured with
        _prove(source, config, formats, out)
        _write_runtime(config, out)
    _write_json(out / "metadata.json", _metadata(source, sizes, formats))
    seconds = {name: result.seconds for name, result in formats.items()}
    parity = {name: result.parity for name, result in formats.items() if result.parity}
    total = round(time.monotonic() - started, 3)
    return {"export_seconds": {**seconds, "total": total}, "parity": parity}


@dataclass
class FormatResult:
    """What became of one format."""

    files: dict[str, Any]
    description: dict[str, Any]
    seconds: float
    error: str | None = None
    parity: dict[str, Any] | None = None


def _check_image_size(source: BundleSource) -> None:
    """Refuse a second resize: torchvision's cannot be repeated exactly without torch."""
    size = source.stored.spec.image_encoder.image_size
    shape = source.cache.facts["image_shape"]
    if shape != [size, size, 3]:
        raise ExportError(
            f"the model takes {size} x {size} pixels, the cached images are {shape}; set "
            f"tokenize.image_size of the dataset to [{size}, {size}]"
        )


def _write_weights(source: BundleSource, out: Path) -> None:
    stored = source.stored
    save_weights(stored.model, out / WEIGHTS)
    stored.text.save(str(out / FILE_NAME))
    _write_json(out / SPEC, _without_folders(stored.spec.model_dump(mode="json")))
    _write_json(out / "training.json", _without_folders(dict(source.training)))


def _without_folders(value: Any) -> Any:
    """Cut absolute paths in settings to their last part: a bundle tells nothing of its machine."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _write_formats(
    source: BundleSource, config: ExportConfig, sizes: DecoderSizes, out: Path
) -> dict[Format, FormatResult]:
    """Write every format; one that fails is reported and does not lose the others.

    Raises:
        ExportError: all of them failed.
    """
    writers: dict[Format, _Writer] = {"onnx": _write_onnx, "torchscript": _write_torchscript}
    model, size = source.stored.model, source.stored.spec.image_encoder.image_size
    specs = {"vision": vision_spec(model, size), "decoder": decoder_spec(model, sizes)}
    results: dict[Format, FormatResult] = {}
    for name in config.formats:
        started = time.monotonic()
        try:
            files, description = writers[name](specs, out)
            error = None
        except Exception as caught:  # exporters raise whatever a model's own code leads them to
            files, description, error = {}, {}, _describe_error(caught)
            _logger.warning("export to %s failed: %s", name, error)
            for path in out.glob("*.onnx*" if name == "onnx" else f"*.{name}.pt"):
                path.unlink()
        seconds = round(time.monotonic() - started, 3)
        results[name] = FormatResult(files, description, seconds, error)
    if results and all(result.error for result in results.values()):
        errors = "; ".join(f"{name}: {result.error}" for name, result in results.items())
        raise ExportError(f"no format could be written: {errors}")
    return results


_Writer = Callable[[dict[str, GraphSpec], Path], tuple[dict[str, Any], dict[str, Any]]]


def _write_onnx(specs: dict[str, GraphSpec], out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    description = {part: write_onnx(specs[part], out / f"{part}.onnx") for part in PARTS}
    files: dict[str, Any] = {part: f"{part}.onnx" for part in PARTS}
    names = [external_name(out / f"{part}.onnx") for part in PARTS]
    if external := [name for name in names if (out / name).exists()]:
        files["external"] = external
    return files, description


def _write_torchscript(
    specs: dict[str, GraphSpec], out: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    from plumbline.export.torchscript import write_torchscript

    files: dict[str, Any] = {part: f"{part}.torchscript.pt" for part in PARTS}
    for part in PARTS:
        write_torchscript(specs[part], out / files[part])
    return files, {"device": "cpu"}


def _describe_error(error: Exception) -> str:
    """One line without paths, so that it is the same on every machine."""
    lines = str(error).strip().splitlines()
    text = re.sub(r"(?:/[\w.+@-]+)+/", "", lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}".rstrip(": ")


def _contract(
    source: BundleSource,
    config: ExportConfig,
    sizes: DecoderSizes,
    formats: Mapping[Format, FormatResult],
) -> dict[str, Any]:
    spec = source.stored.spec
    size = spec.image_encoder.image_size
    mean, std = spec.normalization.statistics
    return {
        "contract_version": CONTRACT_VERSION,
        "task": "vlm",
        "threads": source.threads,
        "image": {
            "decode": "first frame, EXIF orientation, alpha dropped, high byte of 16 bits, RGB",
            "resize": "bicubic",
            "height": size,
            "width": size,
            "mean": list(mean),
            "std": list(std),
            "layout": "NCHW",
            "dtype": "float32",
            "max_bytes": config.max_image_bytes,
            "max_pixels": config.max_image_pixels,
        },
        "text": {
            "special_ids": spec.special_ids.model_dump(),
            "caption_prompt": spec.caption_prompt,
            "max_prompt_tokens": spec.max_text_tokens,
            "max_prompt_chars": MAX_PROMPT_CHARS,
            "max_new_tokens": config.max_new_tokens,
            "decoding": "greedy",
        },
        "decoder": asdict(sizes),
        "formats": {name: result.files for name, result in formats.items() if not result.error},
        "default_format": next((n for n, result in formats.items() if not result.error), None),
    }


def _prove(
    source: BundleSource,
    config: ExportConfig,
    formats: dict[Format, FormatResult],
    out: Path,
) -> None:
    """Measure each format against the checkpoint, then store the self-test.

    Raises:
        ExportError: a format disagrees.
    """
    stored, cache = source.stored, source.cache
    samples = choose_samples(cache, stored, config.split, config.parity_samples)
    reference = reference_answers(stored, cache, samples, config.max_new_tokens)
    for name, result in formats.items():
        if result.error:
            continue
        exported = Model(out, format=name)
        parity = measure_parity(exported, stored, cache, samples, reference)
        _logger.info("%s: %s", name, parity)
        check_parity(name, parity, config)
        rounded = {key: float(f"{value:.3g}") for key, value in asdict(parity).items()}
        result.parity = {**rounded, "samples": parity.samples, "tokens": parity.tokens}
    chosen = choose_samples(cache, stored, config.split, config.selftest_samples)
    reference = reference_answers(stored, cache, chosen, config.max_new_tokens)
    write_selftest(Model(out), cache, chosen, reference.texts, out / "selftest")


def _write_runtime(config: ExportConfig, out: Path) -> None:
    """Copy the scripts as they are, and write the settings and requirements beside them."""
    for name in TEMPLATE_FILES:
        shutil.copyfile(TEMPLATES / name, out / name)
    _write_json(out / "server.json", config.server.model_dump(mode="json"))
    pins = [f"{name}=={importlib.metadata.version(name)}\n" for name in RUNTIME_PACKAGES]
    (out / "requirements.txt").write_text("".join(pins))


def _metadata(
    source: BundleSource, sizes: DecoderSizes, formats: Mapping[Format, FormatResult]
) -> dict[str, Any]:
    stored = source.stored
    parts = {name: _count(part) for name, part in stored.model.named_children()}
    return {
        "task": "vlm",
        "model": {
            "image_encoder": type(stored.model.image_encoder).__name__,
            "decoder": type(stored.model.decoder).__name__,
            "parameters": parts,
            **asdict(sizes),
        },
        "formats": {
            name: {
                "status": "failed" if result.error else "ok",
                **({"error": result.error} if result.error else {}),
                **result.description,
                **({"parity": result.parity} if result.parity else {}),
            }
            for name, result in formats.items()
        },
        "source": {
            "model": stored.digests,
            "cache": {name: source.cache.digests[name] for name in ("cache.json", "images.bin")},
        },
        "versions": {
            name: importlib.metadata.version(name).split("+")[0]
            for name in sorted((*RUNTIME_PACKAGES, *BUILD_PACKAGES))
        },
    }


def _count(part: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(dump_json(value))
