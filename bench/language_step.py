"""Claim: a training of a causal language model costs no more than a bare loop of the same model.

Ours is the trainer with its loader, clipping, schedule and figures; beside it runs a loop over
batches that lie ready, with the same weights, rows, optimiser and rate, a step of each in turn, so
what other processes do to one they do to the other. Losses must be equal. Prints one JSON line:
CPU seconds of a step, medians of five rounds of some steps, and the loop's divided by ours.
`python -m bench.language_step [--rounds 5] [--steps 5]`.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from plumbline.config import fix_threads

fix_threads(1)

import numpy as np
import torch
from torch import nn

from plumbline.batch import Sample
from plumbline.kinds.causal_lm.model import CausalLm
from plumbline.kinds.causal_lm.settings import CausalLmConfig
from plumbline.kinds.causal_lm.train import collate
from plumbline.kinds.language.loss import language_loss
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.packed import takes_whole_rows
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.task import Task
from plumbline.training.trainer import Trainer

VOCAB, SEQ, BATCH = 4096, 128, 8
DECODER = DecoderConfig(width=256, layers=6, heads=8, kv_heads=8, mlp_width=768, max_positions=SEQ)
WARM = 3
LR = 1e-3


class Stream:
    """Blocks of random tokens, each with the one before it."""

    def __len__(self) -> int:
        return 100 * BATCH

    def sample(self, index: int, epoch: int) -> Sample:
        """A block [seq + 1]."""
        ids = keyed_generator(0, "bench", epoch, index).integers(0, VOCAB, SEQ + 1)
        return {"index": index, "epoch": epoch, "ids": ids, "labels": ids}


def build() -> CausalLm:
    """The same weights each time."""
    torch.manual_seed(0)
    model = CausalLm(CausalLmConfig(decoder=DECODER), VOCAB, 0)
    model.whole_rows = takes_whole_rows(model.decoder, SEQ)
    return model


class Bare:
    """A loop over the same batches, as one writes it in a notebook."""

    def __init__(self) -> None:
        self.net = build().decoder.train()
        self.parameters = list(self.net.parameters())
        decayed = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=LR, weight_decay=0.05, betas=(0.9, 0.98), fused=True
        )
        self.losses: list[torch.Tensor] = []

    def step(self, ids: torch.Tensor) -> None:
        """One optimiser step over ids [batch, seq + 1]."""
        logits = self.net(input_ids=ids[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.detach())


def measure(rounds: int, steps: int) -> dict[str, object]:
    """Steps of both in turn: seconds of each, and the losses."""
    task = Task("causal_lm", partial(collate, pad=0), language_loss)
    total = WARM + rounds * steps
    config = TrainerConfig.model_validate(
        {
            "validate_every_epochs": 0,
            "epochs": 10**6,
            "max_steps": total,
            "optim": {"lr": LR, "weight_decay": 0.05},
            "schedule": {"name": "constant", "warmup_share": 0.0},
        }
    )
    loader = Loader(Stream(), task.collate, LoaderConfig(batch_size=BATCH), seed=0, shuffle=False)
    # What the loader will give, made before: a bare loop's batches cost it nothing.
    rows = [Stream().sample(index, 0)["ids"] for index in range(total * BATCH)]
    batches = torch.from_numpy(np.stack(rows)).view(total, BATCH, SEQ + 1)
    bare = Bare()
    ours_s: list[float] = []
    bare_s: list[float] = []
    last = 0.0

    def on_log(step: int, values: Mapping[str, float]) -> None:
        nonlocal last
        now = time.process_time()
        ours_s.append(now - last)
        bare.step(batches[len(bare_s)])
        last = time.process_time()
        bare_s.append(last - now)

    with tempfile.TemporaryDirectory() as folder:
        fitted = Trainer(
            build(),
            task,
            loader,
            None,
            config,
            Machine(torch.device("cpu"), "fp32", Processes()),
            store=CheckpointStore(Path(folder), "bench"),
            seed=0,
            on_log=on_log,
        ).fit()
    apart = max(
        abs(row["loss"] - float(loss))
        for row, loss in zip(fitted.history.steps, bare.losses, strict=True)
    )
    assert apart <= 1e-4, f"the losses are not equal: {apart} apart"
    found = [
        [sum(seconds[WARM + at * steps :][:steps]) / steps for at in range(rounds)]
        for seconds in (ours_s, bare_s)
    ]
    ratios = [b / a for a, b in zip(*found, strict=True)]
    return {
        "parameters": sum(p.numel() for p in bare.parameters),
        "tokens_of_a_step": BATCH * SEQ,
        "ours_step_s": round(statistics.median(found[0]), 4),
        "bare_step_s": round(statistics.median(found[1]), 4),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "losses_apart": apart,
    }


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.language_step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(json.dumps(measure(options.rounds, options.steps)))


if __name__ == "__main__":
    main(sys.argv[1:])
