"""Claim: nothing frozen is computed twice in contrastive training, and the rest costs no more.

Images of 64 px, each with a caption of its own; a ViT of 6 x 256 and a BERT of 4 x 256 (8.6 million
parameters), batches of 64, float32, one thread. Three trainings of ours, by the trainer with its
loader, beside plain loops in PyTorch over the same modules, with open_clip's loss: a DataLoader of
tensors that lie in memory, tokens cut to the longest of a batch, clipping, the same AdamW.

- both towers train: ours and the loop
- images frozen: ours from kept features, and a loop over features that were encoded beforehand
- both frozen: ours from kept features, and ours that encodes at each step (and the loop)

Prints one JSON line: for each the CPU seconds of a step (median of the rounds, each the median of
its steps; a step of ours and one of the loop in turn, in one process), the peer's divided by ours
with least and most of the rounds, and the bytes kept in float32 and in bfloat16. Exit code 1: a
ratio is below its bar.
`python -m bench.frozen [--rounds 5] [--steps 3]`.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from plumbline.files import write_digests
from plumbline.kinds.alignment import train as alignment
from plumbline.kinds.alignment.model import DualEncoder
from plumbline.kinds.alignment.settings import AlignmentTaskConfig, DualEncoderConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.sources.scenes import SCHEMA, ScenesConfig, scene_rows
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.tokenizer import TokenizerConfig
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.task import JobContext, TrainingJob
from plumbline.training.trainer import Trainer

BATCH, SIDE, IMAGES, WARM = 64, 64, 1024, 1
VIT = {"name": "vit", "image_size": SIDE, "patch_size": 8, "width": 256, "layers": 6, "heads": 4}
TEXT = {"name": "transformer", "width": 256, "layers": 4, "heads": 4, "max_tokens": 64}
MODEL = {
    "image_encoder": VIT | {"mlp_width": 1024},
    "text_encoder": TEXT | {"mlp_width": 1024},
    "embed_dim": 256,
}
TASK = {"inputs": {"modality": "image", "normalize": {"preset": "half"}}}
LR, DECAY, CLIP = 1e-4, 0.01, 1.0
BOTH = ("image_encoder", "text_encoder")
BARS = {"trained": 1.0, "images_frozen": 1.0, "both_frozen": 50.0}

Step = Callable[..., None]
"""One step of a peer, over the parts of a batch: [batch, ...] each."""


def make_cache(folder: Path) -> TrainingCache:
    """Drawings, each with one caption that no other has."""
    clean, out = folder / "clean", folder / "cache"
    clean.mkdir()
    out.mkdir()
    config = ScenesConfig(images=IMAGES, image_size=SIDE, captions_per_image=1, faulty_share=0.0)
    rows: list[dict[str, Any]] = []
    for index in range(IMAGES):
        row = next(r for r in scene_rows(config, index) if r["caption"] is not None)
        rows.append(row | {"caption": f"{row['caption']}, drawing number {index}"})
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), clean / "train.parquet")
    shapes = detect_shapes(clean, ShapesConfig())
    build_cache(clean, out, TokenizeConfig(tokenizer=TokenizerConfig(vocab_size=400)), shapes)
    write_digests(out)
    return TrainingCache(out)


def job_of(cache: TrainingCache, frozen: Sequence[str], *, keep: bool = True) -> TrainingJob:
    """Our training."""
    context = JobContext(cache=cache, seed=0, freeze=frozen, keep_features=keep)
    model = DualEncoderConfig.model_validate(MODEL)
    return alignment.build(context, model, AlignmentTaskConfig.model_validate(TASK))


def ours(
    job: TrainingJob, frozen: Sequence[str], steps: int, beside: Callable[[], float] | None = None
) -> tuple[float, float]:
    """CPU seconds of a step of the trainer, from the end of one to the next, as a median.

    Args:
        job: the training.
        frozen: parts of it.
        steps: that are counted.
        beside: a step of a peer, made after each of ours; its median is the second figure.
    """
    settings = {"validate_every_epochs": 0, "epochs": 10**6, "max_steps": WARM + steps}
    settings |= {"optim": {"lr": LR, "weight_decay": DECAY, "betas": [0.9, 0.98]}}
    config = TrainerConfig.model_validate(
        settings | {"max_grad_norm": CLIP, "schedule": {"name": "constant"}}
    )
    own, others, began = [], [], [time.process_time()]

    def on_log(step: int, values: Mapping[str, float]) -> None:
        own.append(time.process_time() - began[0])
        if beside is not None:
            others.append(beside())
        began[0] = time.process_time()

    loader = LoaderConfig(batch_size=BATCH, workers=0)
    machine = Machine(torch.device("cpu"), "fp32", Processes())
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            job.model,
            job.task,
            Loader(job.train, job.task.collate, loader, seed=0, shuffle=True),
            None,
            config,
            machine,
            store=CheckpointStore(Path(folder), "f" * 64, keep_every_epochs=0),
            seed=0,
            frozen=frozen,
            on_log=on_log,
        ).fit()
    return statistics.median(own[WARM:]), statistics.median(others[WARM:] or [0.0])


def peer(cache: TrainingCache, job: TrainingJob, frozen: Sequence[str]) -> Callable[[], float]:
    """A plain loop's next step over the same data, with new weights of the same sizes."""
    torch.manual_seed(0)
    net = DualEncoder(DualEncoderConfig.model_validate(MODEL), cache.facts["vocab_size"])
    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    whole = job.task.collate([job.train.sample(i, 0) for i in range(len(job.train))])
    pixels = torch.from_numpy(np.ascontiguousarray(cache.images))[whole["medium_number"]]
    tokens = [whole["texts"][n][whole["text_index"]] for n in ("input_ids", "attention_mask")]
    kept = _encoded(net, pixels, *tokens, frozen)
    parts = [kept.get(BOTH[0], pixels), *([kept[BOTH[1]]] if BOTH[1] in kept else tokens)]
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.98), weight_decay=DECAY, fused=True)

    def media(given: Tensor) -> Tensor:
        if BOTH[0] in kept:
            return given
        values = given.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        return net.image_encoder(values).pooled

    def texts(given: Sequence[Tensor]) -> Tensor:
        if BOTH[1] in kept:
            return given[0]
        ids, mask = given
        longest = int(mask.sum(1).max())
        return net.text_encoder(ids[:, :longest], mask[:, :longest]).pooled

    def step(image: Tensor, *text: Tensor) -> None:
        images = functional.normalize(net.media_projection(media(image)), dim=-1)
        words = functional.normalize(net.text_projection(texts(text)), dim=-1)
        logits = net.log_scale.exp().clamp(max=100) * images @ words.T
        own = torch.arange(len(image))
        loss = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
        optimizer.zero_grad(set_to_none=True)
        (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        loss.item()  # what a loop shows

    net.train()
    return loop(step, parts)


@torch.inference_mode()
def _encoded(
    net: DualEncoder, pixels: Tensor, ids: Tensor, mask: Tensor, frozen: Sequence[str]
) -> dict[str, Tensor]:
    """What frozen towers make of all samples: [samples, width] each."""
    net.eval()
    found: dict[str, list[Tensor]] = {name: [] for name in frozen}
    for at in range(0, len(pixels), 256):
        rows = slice(at, at + 256)
        if "image_encoder" in frozen:
            values = pixels[rows].permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
            found["image_encoder"].append(net.image_encoder(values).pooled)
        if "text_encoder" in frozen:
            found["text_encoder"].append(net.text_encoder(ids[rows], mask[rows]).pooled)
    return {name: torch.cat(parts).clone() for name, parts in found.items()}


def loop(step: Step, parts: Sequence[Tensor]) -> Callable[[], float]:
    """What makes the next step of a peer over all samples in turn; its CPU seconds."""
    loader = DataLoader(TensorDataset(*parts), BATCH, shuffle=True, drop_last=True)
    batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())

    def one() -> float:
        began = time.process_time()
        step(*next(batches))
        return time.process_time() - began

    return one


def compare(rounds: int, measure: Callable[[], tuple[float, float]]) -> dict[str, Any]:
    """Rounds of ours and the other; the other's seconds divided by ours."""
    pairs = [measure() for _ in range(rounds)]
    ratios = sorted(second / first for first, second in pairs)
    return {
        "ours_s": round(statistics.median(first for first, _ in pairs), 5),
        "peer_s": round(statistics.median(second for _, second in pairs), 5),
        "ratio": round(statistics.median(ratios), 3),
        "least": round(ratios[0], 3),
        "most": round(ratios[-1], 3),
    }


def disk(cache: TrainingCache) -> dict[str, int]:
    """Bytes of the features of both towers, of a small model, by precision."""
    small = {"width": 32, "layers": 1, "mlp_width": 32}
    model = MODEL | {name: {**MODEL[name], **small} for name in BOTH}  # type: ignore[dict-item]
    found = {}
    for precision in ("fp32", "bf16"):
        shutil.rmtree(".plumbline", ignore_errors=True)
        machine = replace(JobContext(cache=cache, seed=0).machine, precision=precision)
        context = JobContext(cache=cache, seed=0, freeze=BOTH, machine=machine)
        alignment.build(
            context,
            DualEncoderConfig.model_validate(model),
            AlignmentTaskConfig.model_validate(TASK),
        )
        files = Path(".plumbline/features").glob("*/features.bin")
        found[precision] = sum(file.stat().st_size for file in files)
    return found


def measure(cache: TrainingCache, rounds: int, steps: int) -> dict[str, Any]:
    """The three trainings."""
    images = BOTH[:1]
    trained, one_frozen = job_of(cache, ()), job_of(cache, images)
    began = time.process_time()
    kept = job_of(cache, BOTH)
    encoding = time.process_time() - began  # of the texts: the images are there
    each = job_of(cache, BOTH, keep=False)
    whole, cached, both = (peer(cache, trained, frozen) for frozen in ((), images, BOTH))
    # A step of projections takes milliseconds: more of them.
    many = 20 * steps

    def without_keeping() -> tuple[float, float]:
        return ours(kept, BOTH, many)[0], ours(each, BOTH, steps)[0]

    measures: dict[str, Callable[[], tuple[float, float]]] = {
        "trained": partial(ours, trained, (), steps, whole),
        "images_frozen": partial(ours, one_frozen, images, 3 * steps, cached),
        "both_frozen": without_keeping,
        "both_frozen_beside_a_loop": partial(ours, kept, BOTH, many, both),
    }
    found: dict[str, Any] = {}
    for name, one in measures.items():
        found[name] = compare(rounds, one)
        print(name, found[name], file=sys.stderr, flush=True)  # it takes minutes
    return {**found, "texts_encoded_s": round(encoding, 2)}


def main(arguments: Sequence[str]) -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(prog="python -m bench.frozen")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # features go below it
        cache = make_cache(Path(folder))
        found = measure(cache, asked.rounds, asked.steps)
        kept = disk(cache)
        os.chdir("/")
    print(
        json.dumps(
            {
                "claim": "CPU seconds of a contrastive step, frozen towers computed once",
                **found,
                "disk_bytes": kept,
                "bars": BARS,
                "batch": BATCH,
                "rounds": asked.rounds,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "load": round(os.getloadavg()[0], 2),
                "torch": torch.__version__,
            }
        )
    )
    return int(any(found[name]["ratio"] < bar for name, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
