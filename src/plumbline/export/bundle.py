"""The folder that runs by itself: model, contract, scripts, server, self-test."""

import html
import importlib.metadata
import json
import logging
import re
import shlex
import shutil
import string
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from plumbline.config import without_folders
from plumbline.disk_errors import refused_write
from plumbline.errors import ExportError
from plumbline.export.bundled_code import bundled_code
from plumbline.export.config import ExportConfig
from plumbline.export.formats import FORMATS
from plumbline.export.graphs import GraphSpec, WriteGraphs, Written
from plumbline.export.parity import check_parity
from plumbline.export.plan import (
    FILE,
    BundlePlan,
    BundleSource,
    GraphPlan,
    Readme,
    check_split,
    module_of,
)
from plumbline.export.runtime.files import OpenGraph
from plumbline.export.runtime.model import CONTRACT_VERSION, Model
from plumbline.export.selftest import write_selftest
from plumbline.files import dump_json, write_digests
from plumbline.kind import known_kinds
from plumbline.models.pretrained import save_architectures
from plumbline.models.stored import ADAPTERS, SPEC
from plumbline.models.weights import WEIGHTS, save_weights
from plumbline.registry import load_attribute
from plumbline.tokenization.tokenizer import FILE_NAME

RUNTIME = Path(__file__).parent / "runtime"
SCRIPTS = ("inference.py", "server.py", "Dockerfile")
COMMON_PACKAGES = ("numpy",)
BUILD_PACKAGES = ("onnx", "onnxscript", "safetensors", "torch", "torchvision", "transformers")

_logger = logging.getLogger(__name__)


class BundleFacts(TypedDict):
    """Facts of an export for the run record, by format."""

    export_seconds: dict[str, float]
    """With `total`, of everything."""
    parity: dict[str, dict[str, float]]


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
    formats = _write_formats(graphs, config, out) if graphs else {}
    _write_json(out / "contract.json", _contract(plan, config, formats))
    if graphs:
        write_digests(out)  # the bundle's own script is what parity is measured with
        _prove(graphs, config, formats, out)
        _write_runtime(graphs, config, _good(formats), out)
    _write_json(out / "metadata.json", _metadata(plan, formats))
    seconds: dict[str, float] = {name: result.seconds for name, result in formats.items()}
    seconds["total"] = round(time.monotonic() - started, 3)
    parity: dict[str, dict[str, float]] = {
        name: result.parity for name, result in formats.items() if result.parity
    }
    return {"export_seconds": seconds, "parity": parity}


def _graph_plan(plan: BundlePlan[ExportConfig]) -> GraphPlan[ExportConfig]:
    if isinstance(plan, GraphPlan):
        return plan
    raise ExportError(
        f"models of kind {plan.stored.spec.kind} have no graphs: set export.formats to [], "
        "which exports the weights alone"
    )


@dataclass
class FormatResult:
    """What became of one format."""

    written: Written
    seconds: float
    error: str | None = None
    parity: dict[str, float] | None = None


def _good(formats: Mapping[str, FormatResult]) -> dict[str, Written]:
    """The formats that were written; the first is the default of the bundle."""
    return {name: result.written for name, result in formats.items() if not result.error}


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


def _write_formats(
    plan: GraphPlan[ExportConfig], config: ExportConfig, out: Path
) -> dict[str, FormatResult]:
    """Write every format; one that fails is reported and does not lose the others.

    Raises:
        ExportError: all of them failed.
    """
    writers = {name: FORMATS[name].writer for name in config.formats}
    specs = plan.graphs()
    results: dict[str, FormatResult] = {}
    for name, writer in writers.items():
        started = time.monotonic()
        # A folder of its own, so that whatever a format leaves that fails is known to be its own.
        folder = out / f"{name}.partial"
        folder.mkdir()
        try:
            write: WriteGraphs = load_attribute(writer)
            written, error = write(specs, folder), None
            _try_alone(specs, written.parts, name, folder)
            _move_files(folder, out)
        except Exception as caught:  # exporters raise whatever a model's own code leads them to
            if refused_write(caught) is not None:
                raise  # no fault of the format: a bundle without it would be half a bundle
            written, error = Written(), _describe_error(caught)
            _logger.warning("export to %s failed: %s", name, error)
        finally:
            shutil.rmtree(folder)
        seconds = round(time.monotonic() - started, 3)
        results[name] = FormatResult(written, seconds, error)
    if all(result.error for result in results.values()):
        errors = "; ".join(f"{name}: {result.error}" for name, result in results.items())
        raise ExportError(
            f"no format could be written: {errors}; with formats: [] the weights alone are exported"
        )
    return results


def _move_files(folder: Path, out: Path) -> None:
    for file in sorted(folder.iterdir()):
        if (out / file.name).exists():
            raise ExportError(f"{file.name}: the bundle has another file of the name")
        file.rename(out / file.name)


def _reader(format: str) -> OpenGraph:
    """What opens the graphs of a format here, as its copy does in a bundle."""
    open_graph: OpenGraph = load_attribute(f"{module_of(FORMATS[format].reader)}:open_graph")
    return open_graph


def _try_alone(specs: dict[str, GraphSpec], files: dict[str, str], format: str, out: Path) -> None:
    """Run every graph on a batch of one: what was fixed to that of the examples fails here."""
    open_graph = _reader(format)
    for part, spec in specs.items():
        run = open_graph(out / files[part], 1)
        inputs = []
        for name, example in spec.inputs.items():
            # Of keys and values the batch is not the first axis.
            axis = next(axis for axis, word in spec.dynamic[name].items() if word == "batch")
            inputs.append(example.narrow(axis, 0, 1).numpy())
        run(inputs)


def _describe_error(error: Exception) -> str:
    """One line without paths, so that it is the same on every machine."""
    lines = str(error).strip().splitlines()
    # A path would differ from machine to machine, and bundles with it.
    text = re.sub(r"(?:/[\w.+@-]+)+/", "", lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}".rstrip(": ")


def _contract(
    plan: BundlePlan[ExportConfig], config: ExportConfig, formats: Mapping[str, FormatResult]
) -> dict[str, object]:
    good = _good(formats)
    return {
        **plan.contract(),
        "contract_version": CONTRACT_VERSION,
        "threads": plan.source.threads,
        "limits": config.limits.model_dump(mode="json"),
        "formats": {name: written.files for name, written in good.items()},
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
        task_class, open_graph = plan.task_class(), _reader(name)
        return Model(out, format=name, task_class=task_class, open_graph=open_graph)

    good = _good(formats)
    for name in good:
        parity = plan.measure(opened(name))
        check_parity(name, parity, config)
        formats[name].parity = parity.facts()
    write_selftest(opened(next(iter(good))), plan, out / "selftest")


def _write_runtime(
    plan: GraphPlan[ExportConfig],
    config: ExportConfig,
    formats: Mapping[str, Written],
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
    (out / "README.md").write_text(_readme(plan.readme, formats), encoding="utf-8")
    _write_json(out / "server.json", config.server.model_dump(mode="json"))
    # Pinned: another version may decode or sum otherwise, and the self-test would say so.
    packages = sorted({*COMMON_PACKAGES, *plan.packages, *_packages(formats)})
    pins = [f"{name}=={importlib.metadata.version(name)}\n" for name in packages]
    (out / "requirements.txt").write_text("".join(pins), encoding="utf-8")


def _packages(formats: Iterable[str]) -> set[str]:
    return {package for name in formats for package in FORMATS[name].packages}


def _readme(readme: Readme, formats: Mapping[str, Written]) -> str:
    """The README of a bundle; its words come from the kind of model, never from the data."""
    place = f"selftest/0{readme.suffix}"
    places: dict[object, object] = {FILE: place, (FILE,): [place]}
    example = {
        name: places.get(tuple(value) if isinstance(value, list) else value, value)
        for name, value in readme.example.items()
    }
    flags = [
        f"--{name.replace('_', '-')} {shlex.quote(place if value == [place] else str(value))}"
        for name, value in example.items()
    ]
    named = json.dumps(place)
    code = {
        how: ", ".join(
            f'"{name}": {json.dumps(value).replace(named, form)}' for name, value in example.items()
        )
        for how, form in (
            ("python", f"Path({named}).read_bytes()"),
            ("json", f"base64.b64encode(Path({named}).read_bytes()).decode()"),
        )
    }
    return string.Template((RUNTIME / "README.md").read_text(encoding="utf-8")).substitute(
        title=readme.title,
        answer=readme.answer,
        commands=f"python inference.py {' '.join(flags)}",
        line=json.dumps(example),
        python=f"{{{code['python']}}}",
        json=f"{{{code['json']}}}",
        graphs="\n".join(_rows(readme.graphs, formats)),
    )


def _rows(graphs: Mapping[str, str], formats: Mapping[str, Written]) -> Iterator[str]:
    """What the README says of the files of each format: of the default what each graph does."""
    default, *others = formats
    for part, text in graphs.items():
        yield f"| `{formats[default].parts[part]}` | {text} |"
    for name in others:
        files = ", ".join(f"`{file}`" for file in formats[name].parts.values())
        yield f"| {files} | the same in another format: `--format {name}` |"


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
