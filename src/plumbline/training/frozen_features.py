"""Features of frozen encoders: computed once per distinct input, and kept on disk for all epochs.

An encoder that `train.freeze` names as a whole gives the same for the same input at every step. So
where an input is the same in every epoch, its features are made before the first step, in large
batches on the device of the training and in its precision, and a step reads them.
"""

import importlib.metadata
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.code_digest import digest_tree
from plumbline.errors import CheckpointError, DamagedInputError, OutputError
from plumbline.files import (
    STATE_DIR,
    digest_of,
    dump_json,
    remove_folder,
    staged_folder,
    verify_digests,
)
from plumbline.loading.digest_check import DigestCheck, large_files
from plumbline.loading.feed import Feed, Numbers
from plumbline.loading.kept_features import KeptFeatures
from plumbline.models.device import autocast, to_device
from plumbline.models.encoder_config import EncoderConfig
from plumbline.models.encoders import Encoded, Encoder
from plumbline.tracking.progress import tracked
from plumbline.training.compilation import Compilation
from plumbline.training.freeze import frozen_digests
from plumbline.training.memory_estimate import as_text
from plumbline.training.processes import Processes
from plumbline.training.skipping import FAILURES
from plumbline.training.task import JobContext
from plumbline.waiting import patient_lock

logger = logging.getLogger(__name__)

BATCH_VALUES = 256
BATCH_POSITIONS = 1 << 17
"""Tokens or steps of a batch, padding included: long values come fewer at a time."""
_BATCH_S = 1800.0
"""What the longest batch may take before who waits for the features gives up."""
_FILE = "features.bin"
_MADE_AGAIN = "it is removed, and made again by the next run"
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a training -> the type in which features are kept."""
_STORED = {"fp32": np.float32, "bf16": np.uint16, "fp16": np.float16}
"""The same for numpy, which has no bfloat16: its bits."""
_INPUT_CODE = (
    "plumbline.data.images",
    "plumbline.loading.audio_transforms",
    "plumbline.loading.inputs",
    "plumbline.loading.transforms",
    "plumbline.tokenization.framing",
    __name__,
)
"""Modules that decide, beside those of its own classes, what an encoder is given and gives."""


def pooled(encoded: Encoded) -> Tensor:
    """One vector a value: [batch, width]."""
    return encoded.pooled


def tokens(encoded: Encoded) -> Tensor:
    """All tokens: [batch, tokens, token_width]."""
    return encoded.tokens


@dataclass(frozen=True)
class Tower:
    """An encoder of a model."""

    name: str
    """Of the part, as `train.freeze` has it."""
    encoder: Encoder
    """On the CPU."""
    config: EncoderConfig
    output: Callable[[Encoded], Tensor] = pooled
    """What the model uses of it."""


def keep_features(
    context: JobContext, tower: Tower, feed: Callable[[], Feed], *, varying: str | None = None
) -> KeptFeatures | None:
    """The features of all that a frozen encoder is given, made where they do not lie there yet.

    Says in a line what is kept, or why a frozen encoder is computed at each step all the same.

    Args:
        context: of the training.
        tower: the encoder, with its weights.
        feed: finds out what it is given.
        varying: why that is another in every epoch; None: it is not.

    Returns:
        None where the encoder is to be computed at each step.

    Raises:
        OutputError: the disk has no room.
    """
    # Adapters cannot be on such a part: the settings refuse them beside `freeze`.
    parts = _freezes(context, tower.name)
    within = [f for f in context.freeze if f.startswith(f"{tower.name}.")]
    if not parts and not within:
        return None
    why_not = varying
    if not parts:
        why_not = f"train.freeze names {within[0]} alone; name {tower.name} to freeze all of it"
    elif not context.keep_features:
        why_not = "trainer.keep_features is false"
    # Only now: finding out what there is reads all texts.
    given = None if why_not else feed()
    if given is not None and (shape := _shape_of_one(tower, given)) is None:
        why_not = "it gives each value as many vectors as that is long"
    if given is None or shape is None:
        _say_computed(tower.name, why_not)
        return None
    return _Keeping(context, tower, given, shape).bring()


def say_if_frozen(context: JobContext, name: str, why: str) -> None:
    """Say of a part whose features no kind can keep why it is computed at each step, if frozen."""
    if _freezes(context, name):
        _say_computed(name, why)


def _freezes(context: JobContext, name: str) -> list[str]:
    """What of `train.freeze` freezes all of a part."""
    return [frozen for frozen in context.freeze if f"{name}.".startswith(f"{frozen}.")]


def _say_computed(name: str, why: str | None) -> None:
    logger.info("%s is frozen, but computed at each step: %s", name, why)


def _shape_of_one(tower: Tower, feed: Feed) -> tuple[int, ...] | None:
    """What a value becomes; None where values of another length become something longer."""
    # Asked of the encoder itself, whose settings may be a plugin's.
    with torch.inference_mode():
        batch = to_device(feed.collate(feed.numbers[:1]), torch.device("cpu"))
        found = tower.output(tower.encoder.eval()(**batch))
    alike = tower.output is tokens and feed.lengths is None
    return tuple(found.shape[1:]) if found.ndim == 2 or alike else None


@dataclass(frozen=True)
class _Keeping:
    """One encoder, what it is given, and the folder of what it gives."""

    context: JobContext
    tower: Tower
    feed: Feed
    shape: tuple[int, ...]

    def bring(self) -> KeptFeatures:
        """The features, memory-mapped; made where they do not lie there yet."""
        rows, places = self.feed.by_row()
        root = Path(os.environ.get("DVC_ROOT", "."))
        folder = root / STATE_DIR / "features" / self._key(rows)[:16]
        folder.parent.mkdir(parents=True, exist_ok=True)
        precision = self.context.machine.precision
        size = len(rows) * int(np.prod(self.shape)) * _TYPES[precision].itemsize
        kept = f"{self.tower.name} is frozen: its features of {len(rows)} {self.feed.what}"
        place = f"{as_text(size)} as {precision} in {folder}"
        # Two queued experiments may want the same features at the same moment: one makes them.
        with patient_lock(folder.with_suffix(".lock"), idle_s=_BATCH_S):
            if self._is_whole(folder):
                logger.info("%s are there, %s", kept, place)
            else:
                self._check_room(folder, size)
                logger.info("%s are computed once and kept, %s", kept, place)
                self._make(folder, rows)
        shape = (len(rows), *self.shape)
        mapped = np.memmap(folder / _FILE, _STORED[precision], "r", shape=shape)
        return KeptFeatures(np.asarray(mapped), places)

    def _key(self, rows: Numbers) -> str:
        """Everything that decides the bits of the features."""
        encoder, machine = self.tower.encoder, self.context.machine
        # What the weights are applied by: the modules of its layers' classes and of their bases.
        classes = {kind.__module__ for m in encoder.modules() for kind in type(m).__mro__}
        libraries = {name.split(".")[0] for name in classes} & {"timm", "transformers"}
        ours = (n for n in classes if n.split(".")[0] in ("plumbline", "plugins"))
        code = sorted({*ours, *_INPUT_CODE, self.feed.collate.__module__})
        return digest_of(
            {
                # Of the tensors, wherever they came from: two trainings with the same share them.
                "weights": frozen_digests(encoder, [""]),
                "config": self.tower.config.without_sources().model_dump(mode="json"),
                "architecture": repr(encoder.architecture),
                "output": self.tower.output.__name__,
                "inputs": dict(self.feed.key),
                "values": self.feed.digest(rows),
                "code": [digest_tree(Path(str(sys.modules[name].__file__))) for name in code],
                "libraries": {
                    name: importlib.metadata.version(name)
                    for name in sorted({"torch", "torchvision"} | libraries)
                },
                "device": machine.device.type,
                "precision": machine.precision,
                "compile": [machine.compile, self.context.compile.unit],
                "threads": torch.get_num_threads(),
            }
        )

    def _is_whole(self, folder: Path) -> bool:
        """Whether the features stand there as they were written; damaged ones are made again."""
        if not folder.exists():
            return False
        try:
            # Of what may be larger than memory only the mapping is made here.
            later = large_files(folder, [_FILE])
            names = {_FILE, "features.json"} - set(later)
            verify_digests(folder, remedy=_MADE_AGAIN, names=names)
        except CheckpointError as error:
            logger.warning("encoding the %s again: %s", self.feed.what, error)
            return False
        if later:  # beside the first epoch
            check = DigestCheck(folder, later, remedy=_MADE_AGAIN)
            self.context.checks.append(partial(_remove_if_damaged, folder, check))
        return True

    def _check_room(self, folder: Path, size: int) -> None:
        # Before hours of encoding, not after them.
        free = shutil.disk_usage(folder.parent).free
        if size > free:
            raise OutputError(
                f"{folder}: the features of {self.tower.name} take {as_text(size)}, and "
                f"{as_text(free)} are free: free some space (plumbline gc lists what can go), or "
                "set trainer.keep_features to false to compute them at each step"
            )

    def _make(self, folder: Path, rows: Numbers) -> None:
        longest = 1 if self.feed.lengths is None else int(self.feed.lengths[rows[0]])
        size = min(len(rows), max(1, min(BATCH_VALUES, BATCH_POSITIONS // longest)))
        encoder, device = self.tower.encoder, self.context.machine.device
        with ExitStack() as stack:
            partial_folder = stack.enter_context(staged_folder(folder))
            # Where the model is built around it, and its memory is counted.
            stack.callback(encoder.to, torch.device("cpu"))
            encoder.to(device).eval()
            # Begun anew: the file holds batches of one size.
            while not self._write(partial_folder / _FILE, rows, size, folder.with_suffix(".lock")):
                torch.cuda.empty_cache()
                size //= 2
            about = {"shape": [len(rows), *self.shape], "what": self.feed.what}
            (partial_folder / "features.json").write_text(dump_json(about), encoding="utf-8")
            # They will stand under the digests of what they were made of.
            self.context.cache.confirm()

    def _write(self, file: Path, rows: Numbers, size: int, lock: Path) -> bool:
        """Encode and write batch by batch; False where memory holds no batch of this size."""
        context, starts = self.context, range(0, len(rows), size)
        encoding = _Encoding(context, self.tower)
        with file.open("wb") as out, encoding.running(self._ends(rows, size)):
            for at in tracked(starts, f"encoding {self.feed.what}", len(starts), "batches"):
                wanted = rows[at : at + size]
                try:
                    found = encoding(self._batch(wanted, size))[: len(wanted)]
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
                    logger.warning("encoding fewer than %d at a time: out of memory", size)
                    return False
                # As bytes: numpy has no bfloat16. Written, not mapped: a full disk is an error.
                out.write(found.contiguous().view(torch.uint8).numpy().data)
                os.utime(lock)  # whoever waits sees that it goes on
        return True

    def _ends(self, rows: Numbers, size: int) -> list[Batch]:
        """The batches between whose lengths all others are."""
        if self.context.machine.compile == "none":
            return []
        return [self._batch(rows[:size], size), self._batch(rows[-size:], size)]

    def _batch(self, rows: Numbers, size: int) -> Batch:
        """The inputs of some values, on the device; of as many as ever where programs are made."""
        if self.context.machine.compile != "none":
            # [size]: the last value again and again, of which nothing is written.
            rows = np.pad(rows, (0, size - len(rows)), mode="edge")
        return to_device(self.feed.collate(self.feed.numbers[rows]), self.context.machine.device)


class _Encoding:
    """The pass of an encoder, compiled where the training's are."""

    def __init__(self, context: JobContext, tower: Tower) -> None:
        """Compile nothing yet."""
        machine, self._encoder = context.machine, tower.encoder
        # By itself: the other processes wait for the features.
        self._compilation = Compilation(machine.compile, context.compile, Processes())

        def plain(model: nn.Module, batch: Batch) -> Tensor:
            with autocast(machine.device, machine.precision):
                return tower.output(model(**batch)).to(_TYPES[machine.precision])

        self._pass = self._compilation.of(tower.encoder, plain)

    def running(self, ends: Sequence[Batch]) -> ExitStack:
        """A block in which batches are encoded; programs are made for the first of `ends`."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(self._compilation.running())
            if ends:
                self._compilation.see(ends, [])
            return stack.pop_all()
        raise AssertionError("no context here swallows an error")

    def __call__(self, batch: Batch) -> Tensor:
        """The features [batch, ...], on the CPU."""
        try:
            return self._pass(self._encoder, batch).cpu()
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            if not self._compilation.give_up(error):
                raise
        return self._pass(self._encoder, batch).cpu()


def _remove_if_damaged(folder: Path, check: DigestCheck) -> None:
    """Wait for the check of a folder's large files.

    Raises:
        DamagedInputError: one is not as it was written; the folder is gone.
    """
    try:
        check.confirm()
    except DamagedInputError:
        remove_folder(folder)
        raise
