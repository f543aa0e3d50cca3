"""How large a model, and how long its training: from the data and this machine, by stated rules."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plumbline.importing.trial import Trial
from plumbline.shapes.described import Shapes, SizeCount
from plumbline.shapes.distributed import ColumnSpread
from plumbline.shapes.proposals import (
    SIDES,
    batch_size,
    class_weights,
    context_tokens,
    image_side,
)
from plumbline.training.machine import count_gpus

CPU_SIDE, CPU_SIDE_OF_MANY = 96, 64
MANY_ROWS = 5000
MAX_TOKENS = 512
FRAME = 8
"""Tokens around a text, of a tokenizer that is not there yet."""
GPU_FACTOR = 40
"""How much more a GPU is given to do."""
CPU_FACTS = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Of x86 and of Arm."""
DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What drivers of GPUs put there."""
STEPS, FEWEST_ROWS = 1000, 32
"""Updates of a training from nothing, at least, unless batches would be of fewer rows for it."""
Worked = Literal["image", "audio", "features", "text", "pairs", "vlm"]
"""What goes through a model; pairs are images with a caption each, of an alignment."""
CPU_PASSES: Mapping[Worked, int] = {
    "image": 60_000,
    "audio": 40_000,
    "features": 100_000,
    "text": 60_000,
    "pairs": 80_000,
    "vlm": 35_000,
}
"""Samples that go through a model in a training, by what they are; minutes on two cores."""


@dataclass(frozen=True)
class Machine:
    """What sizes go by."""

    cores: int
    gpus: int
    bf16: bool = False
    """Whether it has units for bfloat16."""

    @property
    def words(self) -> str:
        """For people."""
        if self.gpus:
            return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        return f"{self.cores} CPU core{'s' if self.cores > 1 else ''} and no GPU"

    @property
    def factor(self) -> int:
        """By how much a training may be longer than on two cores."""
        return GPU_FACTOR if self.gpus else 1


def this_machine() -> Machine:
    """The one that this runs on."""
    # Asking torch takes seconds, which a machine without any device of a driver can do without.
    drivers = any(Path(device).exists() for device in DEVICES)
    gpus = count_gpus() if drivers else 0
    return Machine(len(os.sched_getaffinity(0)), gpus, bf16=bool(gpus) or _processor_has_bf16())


def _processor_has_bf16() -> bool:
    """Whether the kernel says so of the processor; false where it says nothing."""
    with suppress(OSError):
        words = re.split(r"\W+", CPU_FACTS.read_text(encoding="utf-8", errors="replace"))
        return not BF16_FLAGS.isdisjoint(words)
    return False


@dataclass(frozen=True)
class Sizes:
    """What the proposals take from data and machine."""

    train_rows: int
    machine: Machine
    trial: Trial

    def batch(self, what: Worked, most: int = 128, steps: int = STEPS) -> int:
        """Samples of a step: a power of two, and at least so many steps in a training.

        No more than the data alone says.
        """
        samples = self.samples(what)
        fewest = FEWEST_ROWS * samples // self.train_rows
        enough = max(fewest, self.epochs(what) * samples // steps, 2)
        return int(2 ** (min(most, batch_size(self.train_rows), enough).bit_length() - 1))

    def epochs(self, what: Worked) -> int:
        """Passes over the data: as many as the machine has time for, within 2 and 60."""
        passes = CPU_PASSES[what] * self.machine.factor
        if what in ("image", "pairs", "vlm"):
            passes = int(passes * (48 / self.side) ** 2)
        return max(2, min(60, passes // self.samples(what)))

    def samples(self, what: Worked) -> int:
        """Samples of an epoch: all questions and captions of an image are one."""
        if what not in ("pairs", "vlm") or self._column("image") is None:
            return self.train_rows
        images = sum(size["images"] for size in self._image_sizes)
        tried = sum(self.trial.splits.values())
        return max(1, self.train_rows * min(images, tried) // max(1, tried))

    @property
    def side(self) -> int:
        """Of the square images, in pixels: no larger than they are, and than the machine bears."""
        most = SIDES[-1]
        if not self.machine.gpus:
            most = CPU_SIDE_OF_MANY if self.train_rows > MANY_ROWS else CPU_SIDE
        image = self._column("image") or self._column("images")
        return image_side(image["short_side"]["p50"] if image else most, most)

    @property
    def images_a_row(self) -> int:
        """Most images of a conversation."""
        images = self._column("images")
        return int(images["images_a_row"]["max"]) if images and "images_a_row" in images else 0

    @property
    def one_size(self) -> bool:
        """Whether all images that were tried are squares of that side."""
        sizes = self._image_sizes
        return self.trial.whole and [(s["height"], s["width"]) for s in sizes] == [(self.side,) * 2]

    @property
    def _image_sizes(self) -> list[SizeCount]:
        shapes = self._shapes
        return shapes["image"]["sizes"] if "image" in shapes else []

    @property
    def _shapes(self) -> Shapes:
        return self.trial.looked.shapes if self.trial.looked else {"rows": {}}

    def _column(self, name: str) -> ColumnSpread | None:
        """How a column is distributed in the training rows of the first view that has it."""
        views = self.trial.looked.distributions["views"] if self.trial.looked else {}
        trained = (
            by_split["train"]["columns"] for by_split in views.values() if "train" in by_split
        )
        return next((columns[name] for columns in trained if name in columns), None)

    @property
    def class_weights(self) -> str:
        """How classes weigh in the loss: by the part whose labels are the most uneven."""
        labels = self.trial.looked.distributions["labels"] if self.trial.looked else {}
        return class_weights(max((part["imbalance"] for part in labels.values()), default=1.0))

    @property
    def answers(self) -> Mapping[str, int]:
        """The most frequent answers of the training rows that were tried, with their counts."""
        shapes = self._shapes
        return shapes["answers"]["most_frequent"] if "answers" in shapes else {}

    @property
    def tried_rows(self) -> int:
        """Training rows that were tried."""
        return self._shapes["rows"].get("train", 0)

    @property
    def small(self) -> bool:
        """Whether so few rows are there that a large model would learn them by heart."""
        return self.train_rows < 2000

    def tokens(self, *columns: str, per_char: float = 0.4) -> int:
        """Tokens to make room for in these texts, framed, by their characters; at most 512."""
        spreads = [column["chars"] for name in columns if (column := self._column(name))]
        usual = max((spread["p99"] for spread in spreads), default=100)
        longest = max((spread["max"] for spread in spreads), default=100)
        return context_tokens(usual * per_char + FRAME, longest * per_char + FRAME, MAX_TOKENS)

    @property
    def vocabulary(self) -> int:
        """Tokens to learn: more of more text."""
        return 512 if self.train_rows < 500 else 2000 if self.train_rows < MANY_ROWS else 8000

    @property
    def clip_seconds(self) -> float:
        """Length of the longest clip."""
        shapes = self._shapes
        return shapes["audio"]["longest_s"] if "audio" in shapes else 10.0
