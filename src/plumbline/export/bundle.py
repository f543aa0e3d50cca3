"""The folder that runs by itself: model, contract, scripts, server, self-test."""

import html
import importlib.metadata
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

import torch

from plumbline.config import without_folders
from plumbline.errors import ExportError
from plumbline.export.bundled_code import bundled_code
from plumbline.export.config import ExportConfig
from plumbline.export.format_writers import FormatResult, reader_of, size_of, write_formats
from plumbline.export.formats import FORMATS
from plumbline.export.parity import Cost, Parity, check_inputs, check_parity
from plumbline.export.plan import BundlePlan, BundleSource, GraphPlan, check_split
from plumbline.export.readme import readme_text
from plumbline.export.runtime.files import InputError
from plumbline.export.runtime.model import CONTRACT_VERSION, Model
from plumbline.export.selftest import time_answers, write_own_answers, write_selftest
from plumbline.files import dump_json, write_digests
from plumbline.kind import known_kinds
from plumbline.models.pretrained import save_architectures
from plumbline.models.stored import ADAPTERS, SPEC
from plumbline.models.weights import WEIGHTS, save_weights
from plumbline.tokenization.tokenizer import FILE_NAME

RUNTIME = Path(__file__).parent / "runtime"
SCRIPTS = ("inference.py", "server.py", "Dockerfile")
COMMON_PACKAGES = ("numpy",)
BUILD_PACKAGES = ("onnx", "onnxscript", "safetensors", "torch", "torchvision", "transformers")


class BundleFacts(TypedDict):
    """Facts of an export for the run record, by format."""

    export_seconds: dict[str, float]
    """With `total`, of everything."""
    parity: dict[str, dict[str, float]]
    cost: dict[str, Cost]
    """Of those of lower precision."""
    bytes: dict[str, int]
    answer_ms: dict[str, float]
    """Of a stored sample, in the middle; measured where there is a format of lower precision."""


def write_bundle(source: BundleSource, config: ExportConfig, out: Path) -> BundleFacts:
    """Write the bundle of a model, of whatever kind, into the folder `out`.

    Raises:
        ExportError: no graph can be made of the model, no format could be written, or an exported
            model disagrees with the checkpoint.
    """
    started = time.monotonic()
    kind = known_kinds()[source.stored.spec.kind]
    # The kind that made the model and checked the settings names the plan, so the types agree.
    plan: BundlePlan[ExportConfig] = kind.role("export").PLAN(source, config)
    graphs = _graph_plan(plan) if config.formats else None
    if graphs:
        # Before anything is written: both say what to change in the settings.
        check_split(source.cache, config.split)
        graphs.check()
    _write_weights(source, out)
    # A checkpoint in half precision is computed in float32 from here on, on both sides.
    source.stored.model.float().cpu().eval()
    formats = write_formats(graphs, config, out) if graphs else {}
    _write_json(out / "contract.json", _contract(plan, config, formats))
    if graphs:
        graphs.store(out)
        write_digests(out)  # the bundle's own script is what parity is measured with
        _prove(graphs, config, formats, out)
        _write_runtime(graphs, config, _good(formats), out)
    _write_json(out / "metadata.json", _metadata(plan, formats))
    seconds: dict[str, float] = {name: result.seconds for name, result in formats.items()}
    seconds["total"] = round(time.monotonic() - started, 3)
    good = _good(formats)
    return {
        "export_seconds": seconds,
        "parity": {name: result.parity for name, result in good.items() if result.parity},
        "cost": {name: result.cost for name, result in good.items() if result.cost},
        "bytes": {name: size_of(result.written, out) for name, result in good.items()},
        "answer_ms": {n: result.answer_ms for n, result in good.items() if result.answer_ms},
    }


def _graph_plan(plan: BundlePlan[ExportConfig]) -> GraphPlan[ExportConfig]:
    if isinstance(plan, GraphPlan):
        return plan
    raise ExportError(
        f"models of kind {plan.stored.spec.kind} have no graphs: set export.formats to [], "
        "which exports the weights alone"
    )


def _good(formats: Mapping[str, FormatResult]) -> dict[str, FormatResult]:
    """The formats that were written; the first is the default of the bundle."""
    return {name: result for name, result in formats.items() if not result.error}


def _write_weights(source: BundleSource, out: Path) -> None:
    stored = source.stored
    save_weights(stored.model, out / WEIGHTS)
    if stored.tokenizer is not None:
        stored.tokenizer.save(str(out / FILE_NAME))
    # Weights that came from a checkpoint are built anew from this, when it may be gone.
    save_architectures(out, getattr(stored.model, "architectures", {}))
    # Whoever gets the bundle need not know the users and disks of this machine.
    _write_json(out / SPEC, without_folders(stored.spec.model_dump(mode="json")))
    _write_json(out / "training.json", without_folders(dict(source.training)))
    if source.adapters is not None:
        shutil.copytree(source.adapters, out / ADAPTERS)


def _contract(
    plan: BundlePlan[ExportConfig], config: ExportConfig, formats: Mapping[str, FormatResult]
) -> dict[str, object]:
    good = _good(formats)
    return {
        **plan.contract(),
        "contract_version": CONTRACT_VERSION,
        "threads": plan.source.threads,
        "limits": config.limits.model_dump(mode="json"),
        "formats": {name: result.written.files for name, result in good.items()},
        "default_format": next(iter(good), None),
    }


def _prove(
    plan: GraphPlan[ExportConfig],
    config: ExportConfig,
    formats: dict[str, FormatResult],
    out: Path,
) -> None:
    """Measure each format against the checkpoint, then store the self-test.

    Raises:
        ExportError: a format disagrees.
    """

    def opened(name: str) -> Model:
        task_class, open_graph = plan.task_class(), reader_of(name)
        return Model(out, format=name, task_class=task_class, open_graph=open_graph)

    good = _good(formats)
    for name in good:
        parity, result = _measure(plan, name, opened(name)), formats[name]
        if FORMATS[name].loses:
            check_inputs(name, parity)
            result.cost = parity.cost(config.split)
        else:
            check_parity(name, parity, config)
            result.parity = parity.facts()
    write_selftest(opened(next(iter(good))), plan, out / "selftest")
    if not any(FORMATS[name].loses for name in good):
        return
    write_digests(out)  # the samples are read again, checked as in a bundle
    for name in good:
        model = opened(name)
        if FORMATS[name].loses:
            write_own_answers(model, out / "selftest")
        formats[name].answer_ms = time_answers(model)


def _measure(plan: GraphPlan[ExportConfig], name: str, exported: Model) -> Parity:
    try:
        return plan.measure(exported)
    except InputError as error:  # of samples that the pipeline takes: the graphs are at fault
        raise ExportError(f"{name}: {error}") from None


def _write_runtime(
    plan: GraphPlan[ExportConfig],
    config: ExportConfig,
    formats: Mapping[str, FormatResult],
    out: Path,
) -> None:
    """Copy the scripts as they are, and write the settings and requirements beside them."""
    for name in SCRIPTS:
        shutil.copyfile(RUNTIME / name, out / name)
    (out / "runtime").mkdir()
    for name, text in bundled_code(plan.runtime, formats).items():
        (out / "runtime" / f"{name}.py").write_text(text, encoding="utf-8")
    page = (RUNTIME / "page.html").read_text(encoding="utf-8")
    page = page.replace("{{title}}", html.escape(plan.readme.title))
    (out / "runtime" / "page.html").write_text(page, encoding="utf-8")
    (out / "README.md").write_text(readme_text(plan.readme, formats, out), encoding="utf-8")
    _write_json(out / "server.json", config.server.model_dump(mode="json"))
    # Pinned: another version may decode or sum otherwise, and the self-test would say so.
    packages = sorted({*COMMON_PACKAGES, *plan.packages, *_packages(formats)})
    pins = [f"{name}=={importlib.metadata.version(name)}\n" for name in packages]
    (out / "requirements.txt").write_text("".join(pins), encoding="utf-8")


def _packages(formats: Iterable[str]) -> set[str]:
    return {package for name in formats for package in FORMATS[name].packages}


def _metadata(
    plan: BundlePlan[ExportConfig], formats: Mapping[str, FormatResult]
) -> dict[str, object]:
    stored, cache = plan.stored, plan.cache
    media = [name for name in cache.digests if name.endswith(".bin")]
    provenance = plan.source.provenance
    packages = {*COMMON_PACKAGES, *plan.packages, *BUILD_PACKAGES, *_packages(formats)}
    return {
        "task": stored.spec.kind,
        "model": {
            "parameters": {name: _count(part) for name, part in stored.model.named_children()},
            **plan.description(),
        },
        "formats": {
            name: {
                "status": "failed" if result.error else "ok",
                **({"error": result.error} if result.error else {}),
                **result.written.description,
                **({"parity": result.parity} if result.parity else {}),
                **({"cost": result.cost} if result.cost else {}),
            }
            for name, result in formats.items()
        },
        **({"provenance": provenance.model_dump(mode="json")} if provenance else {}),
        "source": {
            "model": stored.digests,
            "cache": {name: cache.digests[name] for name in sorted(("cache.json", *media))},
        },
        "versions": {
            # The same library for another device has another suffix, and exports the same.
            name: importlib.metadata.version(name).split("+")[0]
            for name in sorted(packages)
        },
    }


def _count(part: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _write_json(path: Path, value: object) -> None:
    path.write_text(dump_json(value), encoding="utf-8")
