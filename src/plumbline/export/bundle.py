"""The folder that runs by itself: model, contract, scripts, server, self-test."""

import importlib
import importlib.metadata
import json
import logging
import re
import shlex
import shutil
import string
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import torch

from plumbline.config import without_folders
from plumbline.disk_errors import refused_write
from plumbline.errors import ExportError
from plumbline.export.config import ExportConfig, Format
from plumbline.export.graphs import GraphSpec
from plumbline.export.onnx_writer import external_name, write_onnx
from plumbline.export.parity import check_parity
from plumbline.export.plan import BundlePlan, BundleSource, GraphPlan, Readme, check_split
from plumbline.export.runtime.files import open_graph
from plumbline.export.runtime.model import CONTRACT_VERSION, Model
from plumbline.export.selftest import write_selftest
from plumbline.files import dump_json, write_digests
from plumbline.kind import known_kinds
from plumbline.models.stored import ARCHITECTURE, SPEC
from plumbline.models.weights import WEIGHTS, save_weights
from plumbline.tokenization.tokenizer import FILE_NAME

RUNTIME = Path(__file__).parent / "runtime"
SCRIPTS = ("inference.py", "server.py", "Dockerfile")
COMMON_CODE = (
    "plumbline/export/runtime/__init__.py",
    "plumbline/export/runtime/contract.py",
    "plumbline/export/runtime/files.py",
    "plumbline/export/runtime/guard.py",
    "plumbline/export/runtime/inputs.py",
    "plumbline/export/runtime/model.py",
    "plumbline/export/runtime/refusals.py",
    "plumbline/export/runtime/scores.py",
    "plumbline/export/runtime/worker.py",
    "plumbline/export/runtime/workers.py",
    "plumbline/data/arrays.py",
    "plumbline/data/library_lines.py",
    "plumbline/data/undecodable.py",
)
"""What every bundle runs: it decodes with the files of training."""
OURS = re.compile(r"(?m)^( *)from ((?:plumbline|plugins)[\w.]*) (?=import )")
"""An import of what lies beside a module in a bundle."""
COMMON_PACKAGES = ("numpy", "onnxruntime")
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
        _write_runtime(graphs, config, out)
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


@dataclass(frozen=True)
class Written:
    """The files of one format."""

    parts: dict[str, str] = field(default_factory=dict)
    """Part of the model -> its file."""
    external: list[str] = field(default_factory=list)
    """Files that these refer to."""
    description: dict[str, object] = field(default_factory=dict)
    """For metadata.json."""

    @property
    def files(self) -> dict[str, str | list[str]]:
        """The same as the contract has them."""
        external: dict[str, str | list[str]] = {"external": self.external} if self.external else {}
        return {**self.parts, **external}


@dataclass
class FormatResult:
    """What became of one format."""

    written: Written
    seconds: float
    error: str | None = None
    parity: dict[str, float] | None = None


def _write_weights(source: BundleSource, out: Path) -> None:
    stored = source.stored
    save_weights(stored.model, out / WEIGHTS)
    if stored.tokenizer is not None:
        stored.tokenizer.save(str(out / FILE_NAME))
    # Weights that came from a checkpoint are built anew from this, when it may be gone.
    if architecture := getattr(stored.model, "architecture", None):
        architecture.save_pretrained(out / ARCHITECTURE)
    # Whoever gets the bundle need not know the users and disks of this machine.
    _write_json(out / SPEC, without_folders(stored.spec.model_dump(mode="json")))
    _write_json(out / "training.json", without_folders(dict(source.training)))


def _write_formats(
    plan: GraphPlan[ExportConfig], config: ExportConfig, out: Path
) -> dict[Format, FormatResult]:
    """Write every format; one that fails is reported and does not lose the others.

    Raises:
        ExportError: all of them failed.
    """
    writers: dict[Format, _Writer] = {"onnx": _write_onnx, "torchscript": _write_torchscript}
    specs = plan.graphs()
    results: dict[Format, FormatResult] = {}
    for name in config.formats:
        started = time.monotonic()
        try:
            written, error = writers[name](specs, out), None
            _try_alone(specs, written.parts, name, out)
        except Exception as caught:  # exporters raise whatever a model's own code leads them to
            if refused_write(caught) is not None:
                raise  # no fault of the format: a bundle without it would be half a bundle
            written, error = Written(), _describe_error(caught)
            _logger.warning("export to %s failed: %s", name, error)
            for path in out.glob("*.onnx*" if name == "onnx" else f"*.{name}.pt"):
                path.unlink()
        seconds = round(time.monotonic() - started, 3)
        results[name] = FormatResult(written, seconds, error)
    if all(result.error for result in results.values()):
        errors = "; ".join(f"{name}: {result.error}" for name, result in results.items())
        raise ExportError(
            f"no format could be written: {errors}; with formats: [] the weights alone are exported"
        )
    return results


def _try_alone(
    specs: dict[str, GraphSpec], files: dict[str, str], format: Format, out: Path
) -> None:
    """Run every graph on a batch of one: what was fixed to that of the examples fails here."""
    for part, spec in specs.items():
        run = open_graph(out / files[part], format, threads=1)
        inputs = []
        for name, example in spec.inputs.items():
            # Of keys and values the batch is not the first axis.
            axis = next(axis for axis, word in spec.dynamic[name].items() if word == "batch")
            inputs.append(example.narrow(axis, 0, 1).numpy())
        run(inputs)


_Writer = Callable[[dict[str, GraphSpec], Path], Written]


def _write_onnx(specs: dict[str, GraphSpec], out: Path) -> Written:
    parts = {part: f"{part}.onnx" for part in specs}
    description = {part: write_onnx(spec, out / parts[part]) for part, spec in specs.items()}
    names = [external_name(out / file) for file in parts.values()]
    external = [name for name in names if (out / name).exists()]
    return Written(parts, external, {**description})


def _write_torchscript(specs: dict[str, GraphSpec], out: Path) -> Written:
    from plumbline.export.torchscript import write_torchscript

    parts = {part: f"{part}.torchscript.pt" for part in specs}
    for part, spec in specs.items():
        write_torchscript(spec, out / parts[part])
    return Written(parts, description={"device": "cpu"})


def _describe_error(error: Exception) -> str:
    """One line without paths, so that it is the same on every machine."""
    lines = str(error).strip().splitlines()
    # A path would differ from machine to machine, and bundles with it.
    text = re.sub(r"(?:/[\w.+@-]+)+/", "", lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}".rstrip(": ")


def _contract(
    plan: BundlePlan[ExportConfig], config: ExportConfig, formats: Mapping[Format, FormatResult]
) -> dict[str, object]:
    good = [name for name, result in formats.items() if not result.error]
    return {
        **plan.contract(),
        "contract_version": CONTRACT_VERSION,
        "threads": plan.source.threads,
        "limits": config.limits.model_dump(mode="json"),
        "formats": {name: formats[name].written.files for name in good},
        "default_format": next(iter(good), None),
    }


def _prove(
    plan: GraphPlan[ExportConfig],
    config: ExportConfig,
    formats: dict[Format, FormatResult],
    out: Path,
) -> None:
    """Measure each format against the checkpoint, then store the self-test.

    Raises:
        ExportError: a format disagrees.
    """
    for name, result in formats.items():
        if result.error:
            continue
        parity = plan.measure(Model(out, format=name, task_class=plan.task_class()))
        check_parity(name, parity, config)
        result.parity = parity.facts()
    write_selftest(Model(out, task_class=plan.task_class()), plan, out / "selftest")


def _write_runtime(plan: GraphPlan[ExportConfig], config: ExportConfig, out: Path) -> None:
    """Copy the scripts as they are, and write the settings and requirements beside them."""
    for name in SCRIPTS:
        shutil.copyfile(RUNTIME / name, out / name)
    (out / "runtime").mkdir()
    for name, text in bundled_code(plan.runtime).items():
        (out / "runtime" / f"{name}.py").write_text(text, encoding="utf-8")
    (out / "README.md").write_text(_readme(plan.readme), encoding="utf-8")
    _write_json(out / "server.json", config.server.model_dump(mode="json"))
    # Pinned: another version may decode or sum otherwise, and the self-test would say so.
    packages = sorted((*COMMON_PACKAGES, *plan.packages))
    pins = [f"{name}=={importlib.metadata.version(name)}\n" for name in packages]
    (out / "requirements.txt").write_text("".join(pins), encoding="utf-8")


def bundled_code(runtime: Sequence[str]) -> dict[str, str]:
    """The modules of a bundle's folder `runtime` by name, which import each other alone.

    Args:
        runtime: as in `GraphPlan`.

    Raises:
        ExportError: two have one name, or one cannot be imported without what is not among them.
    """
    places = [file.removesuffix(".py").replace("/", ".") for file in (*COMMON_CODE, *runtime)]
    # The first of the kind's own files has its `TASK`; a bundle finds it as runtime/task.py.
    task = places[len(COMMON_CODE)]
    names = {place: "task" if place == task else _name_in_bundle(place) for place in places}
    modules: dict[str, str] = {}
    for place, name in names.items():
        if name in modules:
            raise ExportError(f"{place}: a bundle has another module of the name {name}")
        file = Path(str(importlib.import_module(place).__file__))
        text = file.read_text(encoding="utf-8")
        for indent, other in OURS.findall(text):
            # What only some bundles have is imported in a function, by those that use it.
            if not indent and other not in names:
                raise ExportError(
                    f"{file}: imports {other}, which the bundle does not have; name its file in "
                    "the plan's `runtime`, or do without"
                )
        modules[name] = OURS.sub(
            lambda found: f"{found[1]}from .{names.get(found[2]) or _name_in_bundle(found[2])} ",
            text,
        )
    return modules


def _name_in_bundle(place: str) -> str:
    """The last part of a module's name, or that of the folder that it is the runtime of."""
    *folders, last = place.split(".")
    if last == "__init__":
        return last
    return folders[-1] if last == "runtime" else last


def _readme(readme: Readme) -> str:
    """The README of a bundle; its words come from the kind of model, never from the data."""
    place = f"selftest/0{readme.suffix}"
    example = {k: place if v == "FILE" else v for k, v in readme.example.items()}
    flags = [f"--{k.replace('_', '-')} {shlex.quote(str(v))}" for k, v in example.items()]
    code = {
        how: ", ".join(
            f'"{name}": {form if value == place else json.dumps(value)}'
            for name, value in example.items()
        )
        for how, form in (
            ("python", f'Path("{place}").read_bytes()'),
            ("json", f'base64.b64encode(Path("{place}").read_bytes()).decode()'),
        )
    }
    return string.Template((RUNTIME / "README.md").read_text(encoding="utf-8")).substitute(
        title=readme.title,
        answer=readme.answer,
        commands=f"python inference.py {' '.join(flags)}",
        line=json.dumps(example),
        python=f"{{{code['python']}}}",
        json=f"{{{code['json']}}}",
        graphs="\n".join(f"| `{part}.onnx` | {text} |" for part, text in readme.graphs.items()),
    )


def _metadata(
    plan: BundlePlan[ExportConfig], formats: Mapping[Format, FormatResult]
) -> dict[str, object]:
    stored, cache = plan.stored, plan.cache
    media = [name for name in cache.digests if name.endswith(".bin")]
    packages = {*COMMON_PACKAGES, *plan.packages, *BUILD_PACKAGES}
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
