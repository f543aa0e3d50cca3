"""Batches in an order that depends on (seed, epoch) alone, for any number of workers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from plumbline.batch import Batch, Sample
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator


class SampleSource(Protocol):
    """What a loader reads: a sized collection whose samples may differ from epoch to epoch."""

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        ...

    def sample(self, index: int, epoch: int) -> Sample:
        """The sample at `index` as epoch `epoch` sees it: a pure function of both."""
        ...


class _Keyed(Dataset[Sample]):
    def __init__(self, source: SampleSource) -> None:
        self._source = source

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, epoch = key
        return self._source.sample(index, epoch)


class Loader:
    """Batches of one source: shuffled anew each epoch when training, in order when evaluating."""

    def __init__(
        self,
        source: SampleSource,
        collate: Callable[[Sequence[Sample]], Batch],
        config: LoaderConfig,
        *,
        seed: int,
        shuffle: bool,
    ) -> None:
        """Bind a source to its collate function."""
        self.source = source
        self._collate, self._config = collate, config
        self._seed, self._shuffle = seed, shuffle

    def __len__(self) -> int:
        """Number of batches in an epoch; a short last one counts unless it is dropped."""
        return -(-self._used() // self._config.batch_size)

    def _used(self) -> int:
        """Samples of an epoch that end up in batches."""
        count, size = len(self.source), self._config.batch_size
        drop = self._config.drop_last and self._shuffle and count > size
        return count - count % size if drop else count

    def epoch_order(self, epoch: int) -> list[int]:
        """Sample indices in the order in which epoch `epoch` visits them."""
        count = len(self.source)
        if not self._shuffle:
            return list(range(count))
        return [int(i) for i in keyed_generator(self._seed, "order", epoch).permutation(count)]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch `start` on."""
        order, size = self.epoch_order(epoch)[: self._used()], self._config.batch_size
        keys = [
            [(index, epoch) for index in order[at : at + size]]
            for at in range(start * size, len(order), size)
        ]
        workers = self._config.workers
        loader: DataLoader[Any] = DataLoader(
            _Keyed(self.source),
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=self._collate,
            # Its base seed would otherwise be drawn from the global generator, step by step.
            generator=None if workers == 0 else _fixed_generator(),
            multiprocessing_context="fork" if workers else None,
        )
        yield from loader


def _fixed_generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def pad_rows(rows: Sequence[np.ndarray[Any, Any]], value: int) -> np.ndarray[Any, Any]:
    """Stack integer rows of unequal length to [batch, longest], filled up with `value`."""
    padded = np.full((len(rows), max(len(r) for r in rows)), value, dtype=np.int64)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return padded
