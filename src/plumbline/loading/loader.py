"""Batches in an order that depends on (seed, epoch) alone, for any number of workers."""

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from plumbline.batch import Batch, Columns, Sample, finish
from plumbline.errors import ConfigError
from plumbline.loading.ahead import lane_to, one_ahead
from plumbline.loading.keys import Indices, Keys, SampleKey, Share
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.order import SampleShards, bringing_ahead, by_window
from plumbline.loading.pool import WorkerPool
from plumbline.loading.random import keyed_generator

POOL_BATCHES = 50
"""Batches whose samples are sorted by length together: enough to save padding, few enough that
which samples meet still changes from epoch to epoch."""


class SampleSource(Protocol):
    """What a loader reads: a sized collection whose samples may differ from epoch to epoch."""

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        ...

    def sample(self, index: int, epoch: int) -> Sample:
        """The sample at `index` as epoch `epoch` sees it: a pure function of both."""
        ...


@runtime_checkable
class SizedSource(SampleSource, Protocol):
    """A source that knows how long its samples are, as batches of similar length need."""

    def length(self, index: int) -> int:
        """Positions that the sample at `index` takes in a batch, at most, in any epoch."""
        ...


@runtime_checkable
class GatheringSource(SampleSource, Protocol):
    """A source that gives the samples of a batch at once, as arrays that are stacked already."""

    def samples(self, indices: Indices, epoch: int) -> Columns:
        """What `sample` gives for each of indices [samples], by column."""
        ...


@runtime_checkable
class ShardedSource(SampleSource, Protocol):
    """A source whose samples may be read from shards, which are best read one after the other."""

    def shards(self) -> SampleShards | None:
        """Where samples are read from; None: from no shards."""
        ...


@dataclass(frozen=True)
class _StandIn:
    """A sample to be computed and not counted."""

    sample: Sample


class Keyed(Dataset[Sample | _StandIn]):
    """A source, read by the keys of a share."""

    def __init__(self, source: SampleSource) -> None:
        """Read this source."""
        self._source = source
        self._gather = source.samples if isinstance(source, GatheringSource) else None

    def __getitem__(self, key: SampleKey) -> Sample | _StandIn:
        index, epoch, counted = key
        sample = self._source.sample(index, epoch)
        return sample if counted else _StandIn(sample)

    def read_together(self, keys: Keys) -> Columns | None:
        """The samples of some keys at once; None where they come one by one."""
        if self._gather is None or not (keys.counted and len(keys)):
            return None
        return self._gather(keys.indices, keys.epoch)

    def read(self, keys: Keys) -> Sequence[Sample | _StandIn]:
        """The samples of some keys."""
        together = self.read_together(keys)
        return [self[key] for key in keys] if together is None else together


def counts(batch: Batch) -> bool:
    """Whether a batch has samples that count: a share may be empty or a stand-in."""
    return len(batch["sample_index"]) > 0


def computes(batch: Batch) -> bool:
    """Whether a batch has samples, be it that they do not count."""
    return len(batch) > 1


WHOLE = Share()
HOST = torch.device("cpu")


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
        share: Share = WHOLE,
        device: torch.device = HOST,
        confirm: Callable[[], None] | None = None,
    ) -> None:
        """Bind a source to its collate function.

        Args:
            source: of the samples.
            collate: makes a batch of samples, for the device.
            config: how samples become batches.
            seed: of the order.
            shuffle: whether each epoch has an order of its own.
            share: of this process.
            device: where batches are wanted. To a GPU they are sent one ahead, and finished there.
            confirm: asked at the end of each epoch, raises where what was read is damaged.

        Raises:
            ConfigError: a setting needs lengths that the source does not have, or one sample alone
                is longer than `max_tokens`.
        """
        self.source = source
        self._collate, self._config = collate, config
        self._seed, self._shuffle, self._share = seed, shuffle, share
        self._device, self._lane, self._confirm = device, lane_to(device), confirm
        self._pool: WorkerPool | None = None
        self._lengths = _find_lengths(source, config)
        self._shards = source.shards() if isinstance(source, ShardedSource) else None

    def __len__(self) -> int:
        """Number of batches in the first epoch; a short last one counts unless it is dropped."""
        return self.count(0)

    def count(self, epoch: int) -> int:
        """Number of batches in an epoch; with `max_tokens` it differs between epochs."""
        if self._config.max_tokens is None:
            return -(-self._used() // self._config.batch_size)
        return len(self.plan(epoch))

    def _used(self) -> int:
        """Samples of an epoch that end up in batches."""
        count, size = len(self.source), self._config.batch_size
        # Where all samples make less than a batch, none would be left.
        drop = self._config.drop_last and self._shuffle and count > size
        return count - count % size if drop else count

    def leaves_one_alone(self, epochs: int, micro_batch_size: int | None = None) -> bool:
        """Whether a process computes one sample alone in any of the first `epochs` epochs."""
        differ = self._config.max_tokens is not None
        sizes = {
            len(batch) for epoch in range(epochs if differ else 1) for batch in self.plan(epoch)
        }
        return any(self._share.may_be_one_of(size, micro_batch_size) for size in sizes)

    def describe_lone_sample(self, micro_batch_size: int | None = None) -> str:
        """Which settings leave one alone, with their values, for messages."""
        settings, count = self._config, self._share.count
        values = f"loader.batch_size {settings.batch_size}, drop_last {settings.drop_last}"
        if settings.max_tokens is not None:
            values += f", max_tokens {settings.max_tokens}"
        if micro_batch_size is not None:
            values += f", trainer.micro_batch_size {micro_batch_size}"
        left = "a batch of one sample" if count == 1 else f"one of {count} processes one sample"
        return f"{values} and {len(self.source)} training samples leave {left}"

    def remedy_for_lone_sample(self, micro_batch_size: int | None = None) -> str:
        """What to set so that no process computes one sample alone, for messages."""
        size, count = self._config.batch_size, self._share.count
        if micro_batch_size is not None and size // count >= 2:
            return "choose another trainer.micro_batch_size, or null for whole batches"
        if size // count < 2:
            return f"set loader.batch_size to {2 * count} or more"
        if self._config.max_tokens is None and len(self.source) > size:
            return "set loader.drop_last to true, or choose another loader.batch_size"
        return "choose other limits of the batches, or fewer trainer.processes"

    def largest_share(self) -> int:
        """Samples that one process takes of a batch, at most."""
        return -(-self._config.batch_size // self._share.count)

    def largest(self, size: int | None = None) -> list[Batch]:
        """This process's micro-batches, as of `micro_batches`, of a batch that is long and full.

        It is the largest of the first ones of an epoch, made without loader processes.
        """
        return self._read(self._share.cut(self._largest(), 0, size))

    def _largest(self) -> Indices:
        # Lengths of a whole epoch may be slow to find out; its first batches are like the rest.
        return max(self.plan(0)[:POOL_BATCHES], key=self._positions)

    def _usual(self) -> list[Indices]:
        """Some batches that have all sizes which a longer look would find, as far as one can say.

        The largest is among them.
        """
        first = self.plan(0)[:POOL_BATCHES]
        if not isinstance(self.source, SizedSource):
            return first[:3]
        return [*first[:3], self._largest(), min(first, key=self._longest)]

    def examples(self, size: int | None = None) -> tuple[list[Batch], list[Batch]]:
        """Some of this process's micro-batches of the first epoch, made without loader processes.

        Returns:
            The first ones of its first batches, of the one that `largest` gives and of one with
            short samples; and those that may be small: the last ones of a batch and of the epoch.
        """
        cut = [self._share.cut(batch, 0, size) for batch in (*self._usual(), self.plan(0)[-1])]
        usual = [pieces[0] for pieces in cut[:-1]]
        short = [cut[0][-1], cut[-1][-1]]
        return self._read(usual), self._read(short)

    def _read(self, pieces: Sequence[Keys]) -> list[Batch]:
        """Micro-batches, finished as the model will be given them."""
        source = Keyed(self.source)
        return [finish(collate_share(self._collate, source.read(keys))) for keys in pieces]

    def _positions(self, batch: Indices) -> int:
        """What a padded batch takes, or as many as its samples where these have no lengths."""
        return len(batch) * self._longest(batch)

    def _longest(self, batch: Indices) -> int:
        if not isinstance(self.source, SizedSource):
            return 1
        return max(self.source.length(int(index)) for index in batch)

    def _permutation(self, epoch: int) -> Indices:
        count = len(self.source)
        if not self._shuffle:
            return np.arange(count)
        # Keyed by epoch alone: a run that goes on from step n cuts the same order and starts at n.
        random = keyed_generator(self._seed, "order", epoch)
        order = random.permutation(count)
        if self._shards is None:
            return order
        shards = self._shards.of_sample
        return by_window(order, shards, self._config.shuffle_shards, random)

    def plan(self, epoch: int) -> list[Indices]:
        """The sample indices [samples] of each batch of an epoch, for all processes together."""
        order = self._permutation(epoch)[: self._used()]
        if not self._config.bucket_by_length or not len(order):
            return self._cut(order)
        assert self._lengths is not None
        # Sorted within pools: batches of like lengths, and yet other neighbours in every epoch.
        size = POOL_BATCHES * self._config.batch_size if self._shuffle else len(order)
        pools = (order[at : at + size] for at in range(0, len(order), size))
        batches = [
            batch
            for pool in pools
            for batch in self._cut(pool[np.argsort(self._lengths[pool], kind="stable")])
        ]
        if not self._shuffle:
            return batches
        # Sorting has put the short batches of a pool first.
        places = keyed_generator(self._seed, "batches", epoch).permutation(len(batches))
        return [batches[i] for i in places]

    def _cut(self, order: Indices) -> list[Indices]:
        """Cut an order into batches within the limits on samples and tokens."""
        size, limit = self._config.batch_size, self._config.max_tokens
        if limit is None or self._lengths is None:
            return [order[at : at + size] for at in range(0, len(order), size)]
        batches, start, longest = [], 0, 0
        for at, length in enumerate(self._lengths[order].tolist()):
            longest = max(longest, length)
            # As padded: [samples, longest] positions count, not the tokens that are there.
            if at - start == size or longest * (at + 1 - start) > limit:
                batches.append(order[start:at])
                start, longest = at, length
        return [*batches, order[start:]] if len(order) else []

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's share of the batches of an epoch, from batch `start` on.

        A share without a sample, of a batch smaller than the number of processes, has no key but
        an empty `sample_index`; a stand-in has its other keys besides.
        """
        with closing(self.micro_batches(epoch, start)) as batches:
            for (whole,) in batches:
                yield whole

    def micro_batches(
        self, epoch: int, start: int = 0, size: int | None = None
    ) -> Generator[list[Batch]]:
        """Yield the same batches, each collated in micro-batches of up to `size` samples."""
        # Before any worker reads: which process makes which batch decides nothing.
        plan = self.plan(epoch)[start:]
        cut = [self._share.cut(batch, epoch, size) for batch in plan]
        # To loader processes each piece is a batch, which they collate and hand over on its own.
        with (
            closing(self._made([keys for pieces in cut for keys in pieces])) as made,
            bringing_ahead(self._shards, plan, self._config.shuffle_shards) as step,
        ):
            batches = (list(itertools.islice(made, len(pieces))) for pieces in cut)
            for batch in batches if self._lane is None else one_ahead(batches, self._lane):
                step()
                yield batch
        if self._confirm is not None:
            self._confirm()

    def _made(self, keys: list[Keys]) -> Generator[Batch]:
        """What is made of the samples of each list."""
        if self._pool is not None:
            yield from self._pool.batches(keys)
        elif self._workers():
            with closing(self._new_pool()) as pool:
                yield from pool.batches(keys)
        else:
            source = Keyed(self.source)
            for batch in keys:
                yield collate_share(self._collate, source.read(batch))

    def _workers(self) -> int:
        return self._config.workers_for(self._device.type, self._share.count)

    def _new_pool(self) -> WorkerPool:
        return WorkerPool(
            Keyed(self.source),
            partial(collate_share, self._collate),
            workers=self._workers(),
            timeout_s=self._config.timeout_s,
        )

    @contextmanager
    def keeping_workers(self) -> Iterator[None]:
        """A block in which loader processes, once started, serve one epoch after the other."""
        pool = self._pool = self._new_pool() if self._workers() else None
        try:
            yield
        finally:
            self._pool = None
            if pool is not None:
                pool.close()


def collate_share(
    collate: Callable[[Sequence[Sample]], Batch], samples: Sequence[Sample | _StandIn]
) -> Batch:
    """The batch of a share: its samples, a stand-in, or nothing but an empty `sample_index`."""
    if isinstance(samples, Columns):
        return collate(samples)
    counted = [sample for sample in samples if not isinstance(sample, _StandIn)]
    if counted:
        return collate(counted)
    others = [each.sample for each in samples if isinstance(each, _StandIn)]
    return {**(collate(others) if others else {}), "sample_index": []}


def _find_lengths(source: SampleSource, config: LoaderConfig) -> Indices | None:
    """The length of each sample, where a setting needs them."""
    if not config.bucket_by_length and config.max_tokens is None:
        return None
    if not isinstance(source, SizedSource):
        setting = "bucket_by_length" if config.bucket_by_length else "max_tokens"
        raise ConfigError(
            f"loader.{setting}: the samples of this task have no lengths to sort by; leave it out"
        )
    lengths = np.array([source.length(index) for index in range(len(source))], dtype=np.int64)
    if config.max_tokens is not None and len(lengths) and lengths.max() > config.max_tokens:
        raise ConfigError(
            f"loader.max_tokens = {config.max_tokens}: sample {lengths.argmax()} alone takes "
            f"{lengths.max()}; raise it or cut the samples shorter"
        )
    return lengths


def pad_rows(rows: Sequence[NDArray[np.integer]], value: int) -> NDArray[np.int64]:
    """Stack integer rows of unequal length to [batch, longest], filled up with `value`."""
    padded = np.full((len(rows), max(len(r) for r in rows)), value, dtype=np.int64)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return padded
