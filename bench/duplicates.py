"""Does recall gain where equal captions and images of a batch are no negatives?

Trains a small alignment on drawings that share captions, with the same seeds both ways: with every
equal caption or image of a batch as a positive, and with the diagonal alone. Prints recall@1 both
ways of each seed and the means, one JSON line for each loss.
`python -m bench.duplicates [EPOCHS [SEED ...]]`.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from plumbline.evaluation.result import EvaluationJob, settle
from plumbline.files import write_digests
from plumbline.kinds.alignment import train as alignment
from plumbline.kinds.alignment.evaluate import evaluate
from plumbline.kinds.alignment.settings import (
    AlignmentEvaluationConfig,
    AlignmentTaskConfig,
    DualEncoderConfig,
)
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.stored import Stored
from plumbline.sources.scenes import SCHEMA, ScenesConfig, scene_rows
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.tokenizer import TokenizerConfig
from plumbline.training.task import JobContext

SPLITS = {"train": (0, 800), "test": (800, 1000)}
BATCH, THREADS = 100, 2
VIT = {"name": "vit", "image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "heads": 4}
TEXT = {"name": "transformer", "width": 64, "layers": 1, "heads": 4, "max_tokens": 64}


def make_cache(folder: Path) -> tuple[TrainingCache, float]:
    """Drawings of one object, and the share of training captions that another drawing has too."""
    clean, out = folder / "clean", folder / "cache"
    clean.mkdir()
    out.mkdir()
    config = ScenesConfig(images=SPLITS["test"][1], object_weights=[1.0], faulty_share=0.0)
    shared = 0.0
    for split, (first, end) in SPLITS.items():
        rows = [row for index in range(first, end) for row in scene_rows(config, index)]
        captions = [row["caption"] for row in rows if row["caption"] is not None]
        if split == "train":
            shared = sum(captions.count(caption) > 1 for caption in captions) / len(captions)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), clean / f"{split}.parquet")
    shapes = {
        "image": {"sizes": [{"height": 32, "width": 32, "images": config.images}]},
        "texts": {"caption": {}},
    }
    build_cache(clean, out, TokenizeConfig(tokenizer=TokenizerConfig(vocab_size=400)), shapes)
    write_digests(out)
    return TrainingCache(out), shared


def diagonal(media: Tensor, texts: Tensor) -> Tensor:
    """Positives of a loss that does not look for equal captions and images."""
    return torch.eye(len(texts), dtype=torch.bool)


def recalls(cache: TrainingCache, loss: str, seed: int, epochs: int) -> dict[str, float]:
    """Train and measure; the positives are those that `kinds.alignment.train` has at the time."""
    model = DualEncoderConfig.model_validate(
        {"image_encoder": VIT | {"mlp_width": 128}, "text_encoder": TEXT | {"mlp_width": 128}}
        | {"embed_dim": 64}
    )
    task = AlignmentTaskConfig.model_validate({"inputs": {"modality": "image"}, "loss": loss})
    job = alignment.build(JobContext(cache=cache, seed=seed), model, task)
    settings = LoaderConfig(batch_size=BATCH, drop_last=True)
    loader = Loader(job.train, job.task.collate, settings, seed=seed, shuffle=True)
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for batch in loader.batches(epoch):
            loss = job.task.loss(job.model, batch)
            optimizer.zero_grad()
            (loss.total / loss.count).backward()
            optimizer.step()
    stored = Stored(job.model, job.spec, job.tokenizer, {})
    config = AlignmentEvaluationConfig(ks=[1], examples=0)
    found, _ = settle(evaluate(EvaluationJob(stored, cache, config, torch.device("cpu"))))
    return {name: round(found[name], 4) for name in found if name.endswith("recall_at_1")}


def compare(cache: TrainingCache, loss: str, seeds: Sequence[int], epochs: int) -> dict[str, Any]:
    """Train every seed both ways under one loss."""
    aware = {seed: recalls(cache, loss, seed, epochs) for seed in seeds}
    with patch.object(alignment, "shared_positives", diagonal):
        plain = {seed: recalls(cache, loss, seed, epochs) for seed in seeds}
    means = {
        name: {
            way: round(statistics.mean(found[seed][name] for seed in seeds), 4)
            for way, found in (("aware", aware), ("diagonal", plain))
        }
        for name in aware[seeds[0]]
    }
    apart = max(abs(mean["aware"] - mean["diagonal"]) for mean in means.values())
    return {"loss": loss, "difference": apart, "mean": means, "aware": aware, "diagonal": plain}


def main(arguments: Sequence[str]) -> None:
    """Compare under each loss."""
    torch.set_num_threads(THREADS)
    epochs = int(arguments[0]) if arguments else 60
    seeds = [int(seed) for seed in arguments[1:]] or [0, 1, 2]
    with tempfile.TemporaryDirectory() as folder:
        cache, shared = make_cache(Path(folder))
        setting = {
            "question": "recall@1 where equal captions and images of a batch are no negatives",
            "images": SPLITS["train"][1],
            "captions_shared": round(shared, 3),
            "batch": BATCH,
            "epochs": epochs,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__,
        }
        for loss in ("info_nce", "sigmoid"):
            print(json.dumps(setting | compare(cache, loss, seeds, epochs)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
