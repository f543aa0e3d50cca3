"""Claim: rows of unequal length train without padding, at no less than the speed of length groups.

Trains a causal language model on the paragraphs of a text, character by character: by this package
with `rows: packed` and with `padded` rows in buckets by length, and by the Trainer of transformers
with padded rows in random order and grouped by length; of each a few steps in turn, the first of
which is not counted. Prints real tokens per CPU second (medians) and the ratios as one JSON line:
`python -m bench.packing [FILE]`; without a file that of BENCH_TEXT, or else a stand-in.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from plumbline.batch import IGNORE_INDEX, Batch, LossSum
from plumbline.data.columns import CANONICAL
from plumbline.files import write_digests
from plumbline.kinds.causal_lm.model import CausalLm
from plumbline.kinds.causal_lm.settings import CausalLmTaskConfig
from plumbline.loading.loader import pad_rows
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.training.launch import decide_machine
from plumbline.training.run import open_job, train_to_folder
from plumbline.training.task import TrainingJob
from plumbline.training.task_sections import FinetuneConfig, schema_of_kind


class Meter:
    """Real tokens and CPU seconds of steps but the first and the last."""

    def __init__(self, steps: int) -> None:
        """Count `steps` and the two around them; later calls of the loss count operations."""
        self._steps = steps
        self._calls: list[tuple[float, int]] = []

    def called(self, tokens: int) -> None:
        """A loss over so many tokens is about to be computed."""
        self._calls.append((time.process_time(), tokens))

    def rate(self) -> float:
        """Tokens per CPU second: whole steps, with their data and their update."""
        counted = self._calls[1 : self._steps + 2]
        spans = [after[0] - before[0] for before, after in pairwise(counted)]
        return sum(tokens for _, tokens in counted[:-1]) / sum(spans)


def write_speeches(path: Path) -> None:
    """A stand-in for tinyshakespeare: as many paragraphs, of lengths that spread like its own."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    ,."))
    # Its 7,222 speeches: a median of 83 characters, 508 at the 95th percentile, 3,080 at most.
    lengths = np.exp(random.normal(np.log(83), 0.98, 7222)).astype(int).clip(2, 3080)
    speeches = ["".join(random.choice(letters, length)) for length in lengths]
    path.write_text("\n\n".join(speeches), encoding="utf-8")


def make_cache(text: Path, folder: Path) -> None:
    """A cache with a row for each paragraph, character by character."""
    clean, out = folder / "clean", folder / "work/cache/speeches"
    clean.mkdir()
    out.mkdir(parents=True)
    paragraphs = [part for part in text.read_text(encoding="utf-8").split("\n\n") if part.strip()]
    rows = [{"sample_id": str(at), "text": part} for at, part in enumerate(paragraphs)]
    schema = pa.schema([(name, CANONICAL[name]) for name in ("sample_id", "text")])
    pq.write_table(pa.Table.from_pylist(rows, schema), clean / "train.parquet")
    settings = TokenizeConfig.model_validate({"tokenizer": {"kind": "char"}})
    build_cache(clean, out, settings, detect_shapes(clean, ShapesConfig(min_train_rows=1)))
    write_digests(out)


def settings_of(options: argparse.Namespace, seed: int, **chosen: object) -> FinetuneConfig:
    """A training by default settings but for the sizes that the command line names."""
    decoder = {"max_positions": options.block}
    train = {
        "model": {"decoder": decoder},
        "task": {"block_size": options.block, "rows": chosen.get("rows", "auto")},
        "loader": {"batch_size": options.batch} | {k: v for k, v in chosen.items() if k != "rows"},
        "trainer": {
            "max_steps": options.steps + 2,
            "validate_every_epochs": 0,
            "precision": "fp32",
            "device": "cpu",
            "optim": {"lr": 1e-3},
        },
    }
    start = {"kind": "causal_lm", "data": "speeches", "start": ".", "weights": "none"}
    return schema_of_kind("causal_lm").model_validate(
        {"seed": seed, "threads": 1, **start, "train": train}
    )


def ours(options: argparse.Namespace, seed: int, **chosen: object) -> float:
    """Tokens per CPU second of this package."""
    config, meter = settings_of(options, seed, **chosen), Meter(options.steps)
    machine = decide_machine(config)
    job = open_job(config, machine)
    loss = job.task.loss

    def measured(model: nn.Module, batch: Batch) -> LossSum:
        meter.called(int((batch["labels"] != IGNORE_INDEX).sum()))
        return loss(model, batch)

    job = replace(job, task=replace(job.task, loss=measured))
    with TemporaryDirectory(dir=".") as out:
        train_to_folder(
            "bench", config, job, machine, Path(out) / "model", on_log=lambda step, values: None
        )
    return meter.rate()


class Rows(Dataset[dict[str, Sequence[int]]]):
    """The same rows for the Trainer, which shifts labels itself."""

    def __init__(self, job: TrainingJob) -> None:
        """Read them all."""
        count = len(job.train)
        self.ids = [job.train.sample(index, 0)["ids"] for index in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Sequence[int]]:
        return {"input_ids": self.ids[index]}


def pad(rows: Sequence[dict[str, np.ndarray]], pad_id: int) -> dict[str, Tensor]:
    """Pad to the longest: input_ids, attention_mask, labels [batch, seq]."""
    ids = [row["input_ids"] for row in rows]
    labels = torch.from_numpy(pad_rows(ids, IGNORE_INDEX))
    known = (labels != IGNORE_INDEX).long()
    return {
        "input_ids": torch.from_numpy(pad_rows(ids, pad_id)),
        "attention_mask": known,
        "labels": labels,
    }


class Fixed(Sampler[int]):
    """Samples in a given order."""

    def __init__(self, order: Sequence[int]) -> None:
        """Take the order."""
        self._order = order

    def __iter__(self):
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


def theirs(options: argparse.Namespace, seed: int, *, grouped: bool) -> float:
    """Tokens per CPU second of the Trainer of transformers, on the same model and rows."""
    config, meter = settings_of(options, seed, rows="padded"), Meter(options.steps)
    job = open_job(config, decide_machine(config))
    assert isinstance(job.model, CausalLm)
    rows, size = Rows(job), options.batch
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    if grouped:
        lengths = [len(ids) for ids in rows.ids]
        draw = torch.Generator().manual_seed(seed)
        order = get_length_grouped_indices(lengths, size, generator=draw)
        # As many as are run, of every length that an epoch has, between two that are not counted.
        batches = [order[at : at + size] for at in range(0, len(order) - size + 1, size)]
        batches.sort(key=lambda batch: sum(lengths[index] for index in batch))
        places = (np.arange(options.steps) + 0.5) * len(batches) / options.steps
        chosen = [batches[int(place)] for place in places]
        order = [index for batch in (chosen[0], *chosen, chosen[0]) for index in batch]

    class Measured(transformers.Trainer):
        def compute_loss(self, model, inputs, **others):
            meter.called(int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum()))
            return super().compute_loss(model, inputs, **others)

        def _get_train_sampler(self, *ignored):
            return Fixed(order)

    with TemporaryDirectory(dir=".") as out:
        arguments = transformers.TrainingArguments(
            out,
            per_device_train_batch_size=size,
            max_steps=options.steps + 2,
            learning_rate=1e-3,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        pads = partial(pad, pad_id=job.spec.special_ids.pad)  # type: ignore[attr-defined]
        Measured(job.model.decoder, arguments, pads, rows).train()  # type: ignore[arg-type]
    return meter.rate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, nargs="?", default=os.environ.get("BENCH_TEXT"))
    sizes = (("block", 512), ("batch", 64), ("steps", 6), ("repeats", 5))
    for name, value in sizes:
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = Path(options.text).resolve() if options.text else None
    runs: dict[str, Callable[[int], float]] = {
        "default": lambda seed: ours(options, seed),
        "buckets": lambda seed: ours(options, seed, rows="padded", bucket_by_length=True),
        "trainer_padded": lambda seed: theirs(options, seed, grouped=False),
        "trainer_grouped": lambda seed: theirs(options, seed, grouped=True),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        if text is None:
            write_speeches(stand_in := Path(folder) / "speeches.txt")
        make_cache(text or stand_in, Path(folder))
        for seed in range(options.repeats):
            for name, run in runs.items():
                found[name].append(run(seed))
        os.chdir("/")
    medians = {name: round(statistics.median(rates)) for name, rates in found.items()}
    print(
        json.dumps(
            {
                "claim": "real tokens per CPU second",
                "text": text.name if text else "stand-in with the lengths of speeches",
                **medians,
                "to_padded": round(medians["default"] / medians["trainer_padded"], 2),
                "to_grouped": round(medians["default"] / medians["trainer_grouped"], 2),
                "buckets_to_grouped": round(medians["buckets"] / medians["trainer_grouped"], 2),
                "rows": CausalLmTaskConfig().rows,
                **{name: getattr(options, name) for name, _ in sizes},
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
