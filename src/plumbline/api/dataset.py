"""A map-style dataset as a source of samples: each a pure function of its index and the epoch."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plumbline.batch import IGNORE_INDEX, Batch, Sample, sample_numbers
from plumbline.errors import DataError
from plumbline.loading.random import keyed_seed

NUMBERS = "sample_index"
"""Key of a batch: the numbers of its samples, for the record of a step that went wrong."""

LABELS = "labels"
"""Rows of this name are padded with `IGNORE_INDEX`, all others with 0."""


class Dataset(Protocol):
    """What has a length and gives a dict for each index: torch's, Hugging Face's, a list."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """One sample."""
        ...


Collate = Callable[[list[Any]], Mapping[str, Any]]
"""Samples -> a batch, a dict of tensors [batch, ...]."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A block in which the global generators of torch, numpy and Python draw from one seed.

    They go on afterwards as if nothing had been drawn.
    """
    ours = torch.default_generator
    before = ours.get_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    # Not torch.manual_seed: it would seed GPUs too, which a forked loader process cannot have.
    ours.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  (what transforms of others draw from)
    random.seed(seed)
    try:
        yield
    finally:
        ours.set_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


@dataclass(frozen=True)
class MapSource:
    """Reads a dataset so that what it draws depends on seed, epoch and index alone.

    So a random crop is another one in every epoch, and yet the same for any number of loader
    processes and after any resume.
    """

    data: Dataset
    seed: int
    name: str
    """Of the argument that it came in, for messages."""

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        return len(self.data)

    def sample(self, index: int, epoch: int) -> Sample:
        """The sample at an index, beside its number: its own keys may have any name."""
        with seeded(keyed_seed(self.seed, self.name, epoch, index)):
            return {"index": index, "sample": self.data[index]}


def open_source(data: object, seed: int, name: str) -> MapSource:
    """Make a source of a dataset, and refuse one that cannot be trained on.

    Args:
        data: of the caller.
        seed: of what it draws.
        name: of the argument, for messages.

    Raises:
        DataError: it is not map-style, its samples are no dicts, or differ from one reading to the
            next.
    """
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(
            f"fit: {name}: {type(data).__name__} has no length or no item by number: give a "
            "map-style dataset (__len__ and __getitem__), or list(...) of a small stream"
        )
    source = MapSource(data, seed, name)
    if not len(source):
        return source  # the trainer says what an empty split means
    first, again = (source.sample(0, 0)["sample"] for _ in range(2))
    if not isinstance(first, Mapping):
        raise DataError(
            f"fit: {name}[0] is a {type(first).__name__}: samples are dicts, such as "
            '{"x": x, "y": y}; wrap the dataset so that it names its fields'
        )
    if not same(first, again):
        raise DataError(
            f"fit: {name}[0] is another one each time it is read: what is random must come from "
            "torch's, numpy's or Python's global generator, which are seeded for each sample"
        )
    return source


def same(first: object, second: object) -> bool:
    """Whether two samples hold the same numbers [...] and texts; what is of another type counts."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        both = first.keys() == second.keys()
        return both and all(same(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first.nan_to_num(), second.nan_to_num())
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return bool(first.shape == second.shape and np.array_equal(first, second))
    plain = (str, bytes, int, float, bool)
    return first == second if isinstance(first, plain) else True


def collate_with(own: Collate | None) -> Callable[[Sequence[Sample]], Batch]:
    """How batches are made: by a caller's function, or by `stack`."""
    make = own or stack

    def collate(samples: Sequence[Sample]) -> Batch:
        batch = make([sample["sample"] for sample in samples])
        if not isinstance(batch, Mapping):
            raise DataError(
                f"fit: collate returned a {type(batch).__name__}: a batch is a dict of tensors "
                "[batch, ...]"
            )
        if NUMBERS in batch:
            raise DataError(
                f"fit: a batch has the key {NUMBERS!r}, which the trainer needs: rename it"
            )
        return {**batch, NUMBERS: torch.from_numpy(sample_numbers(samples))}

    return collate


def stack(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack samples key by key to [batch, ...].

    Rows that differ in length only are padded at their end: `labels` with `IGNORE_INDEX`, the rest
    with 0, so that an attention_mask of ones becomes one that leaves the padding out. Texts stay a
    list.

    Raises:
        DataError: samples differ in their keys or otherwise in shape, or a value is no number,
            array or text; names the key.
    """
    names = samples[0].keys()
    for sample in samples:
        if sample.keys() != names:
            missing = sorted(map(str, names ^ sample.keys()))
            raise DataError(f"fit: key {missing[0]!r}: not in every sample; give all the same keys")
    return {name: _stack(name, [sample[name] for sample in samples]) for name in names}


def _stack(name: str, values: list[Any]) -> Tensor | list[str]:
    if all(isinstance(value, str) for value in values):
        return values
    tensors = [_tensor(name, value) for value in values]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) == 1:
        return torch.stack(tensors)
    if len({shape[1:] for shape in shapes}) > 1 or () in shapes:
        raise DataError(
            f"fit: key {name!r}: samples of shapes {_listed(shapes)} make no batch: only the first "
            "size may differ; give fit a collate function"
        )
    fill = IGNORE_INDEX if name == LABELS else 0
    return pad_sequence(tensors, batch_first=True, padding_value=fill)  # [batch, longest, ...]


def _tensor(name: str, value: object) -> Tensor:
    """A value of a sample as a tensor [...]; plain floats in float32, as models are."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return torch.as_tensor(np.asarray(value))
    if isinstance(value, bool | int | float | list | tuple):
        try:
            return torch.tensor(value)
        except (ValueError, TypeError, RuntimeError):
            pass
    raise DataError(
        f"fit: key {name!r} holds a {type(value).__name__}: give tensors, arrays, numbers or "
        "texts, or give fit a collate function"
    )


def _listed(shapes: set[tuple[int, ...]]) -> str:
    return " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
