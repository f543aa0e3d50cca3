"""The graphs of a bundle, written in every format, one after another."""

import logging
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline.disk_errors import refused_write
from plumbline.errors import ExportError
from plumbline.export.config import ExportConfig
from plumbline.export.formats import FORMATS, ExportFormat
from plumbline.export.graphs import ConvertGraphs, GraphSpec, WriteGraphs, Written
from plumbline.export.parity import Cost
from plumbline.export.plan import GraphPlan, module_of
from plumbline.export.runtime.files import OpenGraph
from plumbline.registry import load_attribute

_logger = logging.getLogger(__name__)


@dataclass
class FormatResult:
    """What became of one format."""

    written: Written
    seconds: float
    error: str | None = None
    parity: dict[str, float] | None = None
    cost: Cost | None = None
    """In place of parity, of a format of lower precision."""
    answer_ms: float | None = None


def write_formats(
    plan: GraphPlan[ExportConfig], config: ExportConfig, out: Path
) -> dict[str, FormatResult]:
    """Write every format; one that fails is reported and does not lose the others.

    Raises:
        ExportError: all of them failed, or the first that was written is of lower precision.
    """
    entries = {name: FORMATS[name] for name in config.formats}  # before anything is computed
    specs = plan.graphs()
    results: dict[str, FormatResult] = {}
    for name, entry in entries.items():
        started = time.monotonic()
        # A folder of its own, so that whatever a format leaves that fails is known to be its own.
        folder = out / f"{name}.partial"
        folder.mkdir()
        try:
            written, error = _write_format(entry, specs, results, out, folder), None
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
    _check_written(results)
    return results


def _check_written(results: Mapping[str, FormatResult]) -> None:
    whole = [name for name, result in results.items() if not result.error]
    if not whole:
        errors = "; ".join(f"{name}: {result.error}" for name, result in results.items())
        raise ExportError(
            f"no format could be written: {errors}; with formats: [] the weights alone are exported"
        )
    if FORMATS[whole[0]].loses:
        raise ExportError(
            f"{whole[0]}: of lower precision, and the first format of a bundle is its default; "
            "name one of full precision before it"
        )


def _write_format(
    entry: ExportFormat,
    specs: dict[str, GraphSpec],
    before: Mapping[str, FormatResult],
    out: Path,
    folder: Path,
) -> Written:
    """Write a format into its folder, from the model or from the files of another one in `out`."""
    if not entry.made_from:
        write: WriteGraphs = load_attribute(entry.writer)
        return write(specs, folder)
    source = before.get(entry.made_from)
    if source is None or source.error:
        raise ExportError(f"it is made from {entry.made_from}, which was not written before it")
    # Its files lie in the bundle already: that of float32 is checked, and is not written twice.
    convert: ConvertGraphs = load_attribute(entry.writer)
    return convert({part: out / file for part, file in source.written.parts.items()}, folder)


def size_of(written: Written, out: Path) -> int:
    """Bytes of the files of a format."""
    return sum((out / file).stat().st_size for file in (*written.parts.values(), *written.external))


def _move_files(folder: Path, out: Path) -> None:
    for file in sorted(folder.iterdir()):
        if (out / file.name).exists():
            raise ExportError(f"{file.name}: the bundle has another file of the name")
        file.rename(out / file.name)


def reader_of(format: str) -> OpenGraph:
    """What opens the graphs of a format here, as its copy does in a bundle."""
    open_graph: OpenGraph = load_attribute(f"{module_of(FORMATS[format].reader)}:open_graph")
    return open_graph


def _try_alone(specs: dict[str, GraphSpec], files: dict[str, str], format: str, out: Path) -> None:
    """Run every graph on a batch of one: what was fixed to that of the examples fails here."""
    open_graph = reader_of(format)
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
