"""Claim: a set that is three times as large as memory, once decoded, trains from encoded shards.

Pictures as JPEG, of which the decoded form takes more than 6 GiB, in a cache of either form. A
small classifier trains one epoch from each, in processes of their own whose anonymous memory is
watched, loader processes counted in; from shards with 0, 2 and 4 workers, and once more killed and
started again. The losses of each step must be equal. Prints one JSON line.

    python -m bench.streaming [--images 44000] [--side 224]
"""

import argparse
import io
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from plumbline.files import write_digests
from plumbline.kinds.classification.settings import ClassificationTaskConfig, ClassifierConfig
from plumbline.kinds.classification.train import build
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.task import JobContext
from plumbline.training.trainer import Trainer

LIMIT_GIB, BATCH, WINDOW, CLASSES = 2.0, 64, 4, 4
CACHES = {"decoded": {"decoded_gb": None}, "encoded": {"decoded_gb": LIMIT_GIB}}
RUNS = {
    "decoded, 0 workers": ("decoded", 0),
    "decoded, 2 workers": ("decoded", 2),
    "encoded, 0 workers": ("encoded", 0),
    "encoded, 2 workers": ("encoded", 2),
    "encoded, 4 workers": ("encoded", 4),
}
KILLED = "encoded, killed"
_LOOK_S = 0.2


def picture(number: int, side: int) -> bytes:
    """A picture of waves, one of a kind, some 10 kB as JPEG."""
    draw = np.random.default_rng(number)
    x, y = np.meshgrid(*2 * [np.arange(side, dtype=np.float32)])
    waves = draw.uniform(0.01, 0.4, (3, 2))
    pixels = [127 + 100 * np.sin(a * x + b * y + number) for a, b in waves]
    stacked = np.stack(pixels, axis=-1) + draw.integers(-9, 10, (side, side, 1))
    buffer = io.BytesIO()
    Image.fromarray(stacked.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def write_clean(clean: Path, images: int, side: int) -> None:
    """The clean table, a thousand rows at a time."""
    schema = pa.schema([("sample_id", pa.string()), ("image", pa.binary()), ("label", pa.string())])
    with pq.ParquetWriter(clean / "train.parquet", schema, compression="none") as writer:
        for begin in range(0, images, 1000):
            numbers = range(begin, min(images, begin + 1000))
            columns = {
                "sample_id": [str(number) for number in numbers],
                "image": [picture(number, side) for number in numbers],
                "label": [f"class {number % CLASSES}" for number in numbers],
            }
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema))


def make_caches(folder: Path) -> dict[str, Any]:
    """Both caches of the clean table, with what they take."""
    shapes = detect_shapes(folder / "clean", ShapesConfig())
    found: dict[str, Any] = {}
    for name, settings in CACHES.items():
        out = folder / name
        out.mkdir()
        began = time.process_time()
        build_cache(folder / "clean", out, TokenizeConfig.model_validate(settings), shapes)
        seconds = time.process_time() - began
        write_digests(out)
        size = sum(file.stat().st_size for file in out.iterdir())
        found[name] = {"cpu_s": round(seconds, 1), "disk_gib": round(size / 2**30, 3)}
    return found


def train(folder: Path, cache: str, workers: int, log: Path, state: Path) -> None:
    """One epoch; a line of `log` for each step, with its loss."""
    torch.set_num_threads(1)
    opened = TrainingCache(folder / cache, confirm_later=True)
    side = opened.images.shape[1]
    encoder = {"name": "vit", "image_size": side, "patch_size": side // 8, "width": 16}
    encoder |= {"layers": 1, "heads": 2, "mlp_width": 16}
    job = build(
        JobContext(cache=opened, seed=0),
        ClassifierConfig.model_validate({"encoder": encoder}),
        ClassificationTaskConfig.model_validate({"inputs": {"modality": "image"}}),
    )
    settings = {"epochs": 1, "validate_every_epochs": 0, "checkpoint": {"every_steps": 40}}
    loader = LoaderConfig(batch_size=BATCH, workers=workers, shuffle_shards=WINDOW)
    with log.open("a", encoding="utf-8", buffering=1) as lines:

        def on_log(step: int, values: Mapping[str, float]) -> None:
            lines.write(f"{json.dumps([step, values['train/loss']])}\n")

        began = time.monotonic()
        Trainer(
            job.model,
            job.task,
            Loader(job.train, job.task.collate, loader, seed=0, shuffle=True),
            None,
            TrainerConfig.model_validate(settings),
            Machine(torch.device("cpu"), "fp32", Processes()),
            store=CheckpointStore(state, "f" * 64, keep_every_epochs=0),
            seed=0,
            on_log=on_log,
        ).fit()
    print(json.dumps({"wall_s": time.monotonic() - began, "samples": len(job.train)}))


def anonymous_bytes(root: int) -> int:
    """Anonymous memory of a process and all below it; shared pages count in part."""
    total = 0
    for pid in (root, *_below(root)):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # it has ended
            continue
        fields = dict(line.split(":") for line in rollup.splitlines()[1:])
        total += int(fields["Pss_Anon"].split()[0]) * 1024
    return total


def _below(root: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{root}/task/{root}/children").read_text(encoding="ascii")
    except OSError:
        return
    for child in map(int, children.split()):
        yield child
        yield from _below(child)


def run(folder: Path, name: str, cache: str, workers: int, end_at: int | None) -> dict[str, Any]:
    """A training in a process of its own.

    Args:
        folder: of the caches.
        name: of the run, under which a later one goes on.
        cache: decoded or encoded.
        workers: of the loader.
        end_at: step at which it is killed; None: never.
    """
    log, state = folder / f"{name}.log", folder / f"{name}.state"
    log.touch()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "bench.streaming", "--train", str(folder), cache]
    process = subprocess.Popen(
        [*command, str(workers), str(log), str(state)], stdout=subprocess.PIPE, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        if end_at is not None and len(log.read_text(encoding="utf-8").splitlines()) >= end_at:
            process.send_signal(signal.SIGKILL)
        time.sleep(_LOOK_S)
    printed, _ = process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, Any] = {"anonymous_gib": round(peak / 2**30, 3)}
    found["losses"] = dict(map(json.loads, log.read_text(encoding="utf-8").splitlines()))
    if process.returncode == 0:
        said = json.loads(printed)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found["samples_a_s"] = round(said["samples"] / said["wall_s"])
        found["samples_a_cpu_s"] = round(said["samples"] / cpu)
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(prog="python -m bench.streaming")
    parser.add_argument("--images", type=int, default=44_000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--train", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.train:
        folder, cache, workers, log, state = asked.train
        train(Path(folder), cache, int(workers), Path(log), Path(state))
        return 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "clean").mkdir()
        write_clean(folder / "clean", asked.images, asked.side)
        caches = make_caches(folder)
        found = {}
        for name, (cache, workers) in RUNS.items():
            found[name] = run(folder, name, cache, workers, None)
            print(name, {**found[name], "losses": 0}, file=sys.stderr, flush=True)
        third = asked.images // BATCH // 3
        run(folder, KILLED, "encoded", 2, third)
        found[KILLED] = run(folder, KILLED, "encoded", 2, None)
        shards = len(list((folder / "encoded").glob("*.shard")))
    losses = {name: each.pop("losses") for name, each in found.items()}
    whole = losses["encoded, 0 workers"]
    steps = -(-asked.images // BATCH)
    equal = len(whole) == steps and all(
        losses[name] == whole for name in found if name.startswith("encoded")
    )
    for rate in ("samples_a_s", "samples_a_cpu_s"):  # of a part of the epoch
        found[KILLED].pop(rate, None)
    most = max(each["anonymous_gib"] for name, each in found.items() if "encoded" in name)
    rates = {n: found[f"{n}, 0 workers"]["samples_a_cpu_s"] for n in CACHES}
    print(
        json.dumps(
            {
                "claim": "a set of three times the memory trains from encoded shards",
                "decoded_gib": round(asked.images * asked.side**2 * 3 / 2**30, 2),
                "limit_gib": LIMIT_GIB,
                "shards": shards,
                "window": WINDOW,
                "steps": steps,
                "caches": caches,
                "runs": found,
                "anonymous_gib": most,
                "equal_losses": int(equal),
                "to_decoded": round(rates["encoded"] / rates["decoded"], 3),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "load": round(os.getloadavg()[0], 2),
                "torch": torch.__version__,
            }
        )
    )
    return int(not equal or most > LIMIT_GIB or asked.images * asked.side**2 * 3 < 6 * 2**30)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
