"""Claim: questions that share their image's sequence train faster than one sequence per question.

Prints questions per CPU second of a training step both ways, in turn, on the same images and model,
as one JSON line: median of the repeats with least and most, and how far the losses lie apart.
`python -m bench.shared_image`.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from plumbline.batch import Batch
from plumbline.files import write_digests
from plumbline.kinds.vlm.model import Vlm
from plumbline.kinds.vlm.rows import Rows
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.kinds.vlm.train import DialogueSource, loss
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.kept_features import KeptFeatures
from plumbline.loading.transform_config import Normalization
from plumbline.models.encoder_config import VitConfig
from plumbline.models.encoders import build_encoder
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.sources.scenes import ScenesConfig, read_scenes
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.tokenizer import SpecialIds, TokenizerConfig

IMAGES, REPEATS, THREADS = 32, 7, 1


def make_cache(folder: Path) -> TrainingCache:
    """A cache of `IMAGES` scenes with five questions each."""
    clean, out = folder / "clean", folder / "cache"
    clean.mkdir()
    out.mkdir()
    table = pa.Table.from_batches(read_scenes(ScenesConfig(images=IMAGES, faulty_share=0.0)))
    pq.write_table(table, clean / "train.parquet")
    shapes = detect_shapes(clean, ShapesConfig())
    build_cache(clean, out, TokenizeConfig(tokenizer=TokenizerConfig(vocab_size=400)), shapes)
    write_digests(out)
    return TrainingCache(out)


def step(model: nn.Module, batch: Batch) -> tuple[float, int]:
    """Forward and backward over one batch; its loss, summed and counted."""
    model.zero_grad(set_to_none=True)
    result = loss(model, batch)
    (result.total / result.count).backward()
    return float(result.total.detach()), int(result.count)


def rate(model: nn.Module, batches: list[Batch], questions: int) -> tuple[float, float]:
    """Questions per CPU second over the batches, and their mean loss."""
    start = time.process_time()
    found = [step(model, batch) for batch in batches]
    seconds = time.process_time() - start
    return questions / seconds, sum(total for total, _ in found) / sum(count for _, count in found)


def summary(rates: list[float]) -> dict[str, float]:
    """Median, least and most, to a tenth."""
    return {
        "median": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "most": round(max(rates), 1),
    }


def main() -> None:
    """Measure both and print the ratio."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(Path(folder))
        vit = VitConfig(
            name="vit", image_size=32, patch_size=8, width=128, layers=2, heads=4, mlp_width=256
        )
        encoder = build_encoder(vit)
        zeros = np.zeros((IMAGES, encoder.tokens, encoder.token_width), np.float32)
        features = KeptFeatures(zeros, np.arange(IMAGES))
        special = SpecialIds(**cache.facts["special_ids"])
        model = Vlm(encoder, VlmConfig(), cache.facts["vocab_size"], special.pad)
        config = VlmTaskConfig(captions_per_image=0)
        source = DialogueSource(
            cache, "train", config, np.zeros(0, np.int32), features, seed=0, training=True
        )
        make = Rows(
            max_text_tokens=config.max_text_tokens,
            normalize=Normalization(preset="half"),
            special_ids=special,
            image_size=32,
            image_tokens=encoder.tokens,
        ).padded
        rows = [dict(source.sample(index, 0)) for index in range(IMAGES)]
        single = [{**row, "segments": [s]} for row in rows for s in row["segments"]]
        shared_batch = [make(rows)]
        single_batches = [make(single[at : at + IMAGES]) for at in range(0, len(single), IMAGES)]
        rounds = [
            [rate(model, batches, len(single)) for batches in (shared_batch, single_batches)]
            for _ in range(REPEATS + 1)
        ][1:]  # the first is a warm-up
    shared, alone = ([found[way][0] for found in rounds] for way in (0, 1))
    apart = abs(rounds[0][0][1] / rounds[0][1][1] - 1)
    ratio = statistics.median(shared) / statistics.median(alone)
    print(
        json.dumps(
            {
                "claim": "questions per CPU second of a training step",
                "shared_sequence": summary(shared),
                "one_sequence_each": summary(alone),
                "ratio": round(ratio, 2),
                "loss_difference": apart,
                "repeats": REPEATS,
                "threads": THREADS,
                "load": round(os.getloadavg()[0], 2),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
