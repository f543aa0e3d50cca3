"""The samples in a bundle by which it proves itself where it runs."""

import json
import statistics
import time
from pathlib import Path

from plumbline.errors import ExportError
from plumbline.export.config import ExportConfig
from plumbline.export.plan import GraphPlan, Request
from plumbline.export.runtime.model import Model, agree, stored_request
from plumbline.files import dump_json, read_json

SELFTEST = "selftest.json"

TOLERANCE = 1e-3
"""Of answers, absolute or relative to figures above 1: another processor sums in another order."""

TIMED = 5
"""Rounds in which answers are timed."""

INPUT_TOLERANCE = 1e-4
"""Of inputs that are not the same bits everywhere."""


def write_selftest(model: Model, plan: GraphPlan[ExportConfig], out: Path) -> None:
    """Write requests and what is expected into the new folder `out`.

    Args:
        model: the bundle.
        plan: says what is stored, and what the checkpoint answers.
        out: `selftest` in the bundle.

    Raises:
        ExportError: the bundle answers otherwise.
    """
    out.mkdir()
    answers, preprocessing = [], []
    for number, sample in enumerate(plan.selftest(model)):
        got = model.predict(sample.request)
        # An answer may say more than the checkpoint does, such as a confidence.
        known = {name: got[name] for name in sample.expected}
        if not agree(sample.expected, known, TOLERANCE):
            raise ExportError(f"self-test: the bundle says {known}, the model {sample.expected}")
        entry = _store(model, sample.request, out, f"{number}{sample.suffix}")
        # The bundle's own answer is stored: elsewhere it has to repeat itself.
        answers.append({**entry, "answer": _rounded(got)})
    for name, request in plan.preprocessing().items():
        preprocessing.append(_store(model, request, out, name))
    expected = {
        "answers": answers,
        "preprocessing": preprocessing,
        "tolerance": TOLERANCE,
        "input_tolerance": INPUT_TOLERANCE,
    }
    (out / SELFTEST).write_text(dump_json(expected), encoding="utf-8")


def write_own_answers(model: Model, out: Path) -> None:
    """Store what a format of lower precision answers to the samples that `write_selftest` stored.

    Args:
        model: the bundle in this format, its digests written.
        out: `selftest` in the bundle.
    """
    stored = read_json(out / SELFTEST)
    answers = [
        {**sample, "answer": _rounded(model.predict(stored_request(model, sample)))}
        for sample in stored["answers"]
    ]
    own = {**stored, "answers": answers}
    (out / f"{model.format}.json").write_text(dump_json(own), encoding="utf-8")


def time_answers(model: Model) -> float:
    """Milliseconds of an answer to a stored sample, in the middle of `TIMED` rounds over all."""
    stored = json.loads(model.files.read(f"selftest/{SELFTEST}"))
    requests = [stored_request(model, sample) for sample in stored["answers"]]
    took: list[float] = []  # seconds
    for _ in range(TIMED):
        for request in requests:
            began = time.perf_counter()
            model.predict(request)
            took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1000, 3)


def _store(model: Model, request: Request, out: Path, name: str) -> dict[str, object]:
    """Write the files of a request; the entry that names them."""
    stored: dict[str, object] = {}
    written: list[str] = []

    def write(data: bytes) -> str:
        # The second file of a request and those behind it count on: 0.png, 0-1.png.
        stem, dot, suffix = name.partition(".")
        file = f"{stem}-{len(written)}{dot}{suffix}" if written else name
        (out / file).write_bytes(data)
        written.append(f"{out.name}/{file}")
        return written[-1]

    for field, value in request.items():
        if isinstance(value, bytes):
            value = write(value)
        elif model.task.fields[field] == "files" and isinstance(value, list):
            value = [write(each) for each in value]
        stored[field] = value
    where = written[0] if written else f"sample {name}"
    return {"name": where, "request": stored, "inputs": model.fingerprint(request)}


def _rounded(value: object) -> object:
    """The same with numbers cut to six digits, so that it is short and the same anywhere."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
