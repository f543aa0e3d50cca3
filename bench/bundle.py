"""Claim: the export of the default vision-language model takes less than 20 CPU seconds.

A model of the default sizes is trained for a moment in a checkout of its own. Then its stage
`export_model` runs a few times as it is, and once with its parts measured: imports, reading the
code and settings, capture and decomposition of the graphs, optimisation, TorchScript, the checks
beside the checkpoint. Prints one JSON line in CPU seconds. `python -m bench.bundle [--repeats 3]`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

SHORT = """# @package _global_
datasets:
  scenes:
    prepare: {images: 600}
    validate: {split: {val: 0.1, test: 0.2}}
align:
  image:
    train: {trainer: {max_steps: 8, validate_every_epochs: 1}, loader: {batch_size: 64}}
tasks:
  vqa:
    train: {trainer: {max_steps: 60, validate_every_epochs: 1}}
"""
STAGE = ("-m", "stages.export_model", "vqa")


class Parts:
    """CPU seconds of functions, each without those of the others that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._inner: list[float] = []

    def watch(self, holder: Any, name: str, part: str) -> None:
        """Measure a function of a module or class from here on."""
        given = holder.__dict__.get(name)
        timed = self._timed(getattr(holder, name), part)
        is_method = isinstance(given, classmethod | staticmethod)
        setattr(holder, name, staticmethod(timed) if is_method else timed)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            self._inner.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                spent = time.process_time() - began
                self.seconds[part] = self.seconds.get(part, 0.0) + spent - self._inner.pop()
                self.calls[part] = self.calls.get(part, 0) + 1
                if self._inner:
                    self._inner[-1] += spent

        return timed


def measure_parts() -> None:
    """Be the stage, in the working folder, and print its parts."""
    parts = Parts()
    from plumbline import stage
    from plumbline.config import fix_threads
    from plumbline.imports import importing
    from plumbline.stages import export_model

    fix_threads(2)
    began = time.process_time()
    with importing():
        import onnx
        import onnxruntime  # noqa: F401  # part of what is imported
        import onnxscript
        import torch
        from torch.onnx._internal.exporter import _core, _fx_passes, _registration

        from plumbline.export import bundle, format_writers, onnx_writer, torchscript
        from plumbline.kinds.vlm import export as plan
    imports = time.process_time() - began
    for holder, name, part in (
        (export_model, "parse_call", "settings_and_code"),
        (torch.export, "export", "capture"),
        (_registration.ONNXRegistry, "from_torchlib", "registry"),
        (_fx_passes, "decompose_with_registry", "decompose"),
        (_fx_passes, "insert_type_promotion_nodes", "promote_types"),
        (_core, "_exported_program_to_onnx_program", "translate"),
        (torch.onnx.ONNXProgram, "optimize", "optimize"),
        (onnx.checker, "check_model", "check_onnx"),
        (onnxscript.ir, "save", "save_onnx"),
        (onnx_writer, "write_onnx", "rest_of_onnx"),
        (torchscript, "write_torchscript", "torchscript"),
        (format_writers, "_try_alone", "run_alone"),
        (plan, "reference_answers", "checkpoint_answers"),
        (bundle, "_prove", "parity"),
        (bundle, "write_selftest", "selftest"),
        (bundle, "write_bundle", "rest_of_bundle"),
    ):
        parts.watch(holder, name, part)
    stage.run_stage(lambda arguments: export_model.main(["vqa"]))
    seconds = {"imports": imports, **parts.seconds}
    print(json.dumps({"parts_s": seconds, "captures": parts.calls["capture"]}))


def main(arguments: Sequence[str]) -> None:
    """Measure in a checkout of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.bundle", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", action="store_true", help="be the stage in this folder")
    options = parser.parse_args(arguments)
    if options.parts:
        measure_parts()
        return
    from tests.pipeline.checkout import make_checkout

    with tempfile.TemporaryDirectory() as folder:
        checkout = make_checkout(Path(folder) / "checkout")
        (checkout.folder / "conf/experiment/short.yaml").write_text(SHORT, encoding="utf-8")
        checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: short")
        checkout.run(sys.executable, "-m", "stages.check_params", "--write")
        checkout.run("dvc", "repro", "finetune@vqa")
        totals = []
        for _ in range(options.repeats):
            before = os.times()
            checkout.run(sys.executable, *STAGE)
            after = os.times()
            totals.append(sum(after[2:4]) - sum(before[2:4]))
        command = (sys.executable, str(Path(__file__).resolve()), "--parts")
        printed = checkout.run(*command).stdout
    found = next(json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    seconds = {name: round(value, 2) for name, value in found.pop("parts_s").items()}
    spans = {"total_s": statistics.median(totals), "least": min(totals), "most": max(totals)}
    rounded = {name: round(value, 2) for name, value in spans.items()}
    print(json.dumps({**rounded, **found, "parts_s": seconds, "repeats": options.repeats}))


if __name__ == "__main__":
    main(sys.argv[1:])
