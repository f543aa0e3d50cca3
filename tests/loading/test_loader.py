"""Batches depend on (seed, epoch) alone: not on workers, nor on where an epoch is entered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plumbline.batch import Batch, Sample
from plumbline.errors import ConfigError
from plumbline.loading.keys import Share
from plumbline.loading.loader import Loader, pad_rows
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator
from tests.order import epoch_order


class Drawn:
    """Samples with a draw of their own in each epoch, as tasks make them."""

    def __init__(self, count: int = 11) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, epoch: int) -> Sample:
        draw = keyed_generator(5, "draw", epoch, index).random()
        return {"index": index, "epoch": epoch, "draw": draw}


def stack(samples: Sequence[Sample]) -> Batch:
    return {
        "draw": torch.tensor([s["draw"] for s in samples], dtype=torch.float64),
        "sample_index": torch.tensor([s["index"] for s in samples]),
        "epoch": torch.tensor([s["epoch"] for s in samples]),
    }


def loader(**settings: Any) -> Loader:
    seed, shuffle = settings.pop("seed", 0), settings.pop("shuffle", True)
    source = Drawn(settings.pop("count", 11))
    config = LoaderConfig(**{"batch_size": 4, **settings})
    return Loader(source, stack, config, seed=seed, shuffle=shuffle)


def same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_for_any_number_of_workers(workers: int) -> None:
    alone = list(loader().batches(epoch=2))
    torch.manual_seed(workers)  # nor do they depend on the global generator
    assert same(alone, list(loader(workers=workers).batches(epoch=2)))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert epoch_order(loader(), 1) == epoch_order(loader(batch_size=2), 1)
    orders = [epoch_order(loader(seed=s), e) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(11)) for order in orders)


def test_evaluation_goes_in_order() -> None:
    assert epoch_order(loader(shuffle=False), 3) == list(range(11))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", range(4))
def test_an_epoch_entered_at_batch_k_goes_on_exactly(start: int, workers: int) -> None:
    whole = list(loader().batches(epoch=1))
    assert same(whole[start:], list(loader(workers=workers).batches(epoch=1, start=start)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_micro_batches_are_the_batches_in_pieces(size: int, workers: int) -> None:
    cut = list(loader(workers=workers).micro_batches(epoch=1, start=1, size=size))
    for batch, pieces in zip(loader().batches(epoch=1, start=1), cut, strict=True):
        sizes = [len(piece["sample_index"]) for piece in pieces]
        assert sizes[:-1] == [size] * (len(pieces) - 1)
        assert 0 < sizes[-1] <= size
        whole = {name: torch.cat([piece[name] for piece in pieces]) for name in batch}
        assert same([batch], [whole])


@pytest.mark.parametrize("stand_in", [False, True])
@pytest.mark.parametrize("size", [None, 1, 2, 3])
def test_every_process_has_as_many_micro_batches_of_a_batch(
    size: int | None, stand_in: bool
) -> None:
    for samples in range(1, 12):
        batch = np.arange(samples)
        shares = [Share(rank, 3, stand_in=stand_in) for rank in range(3)]
        cuts = [share.cut(batch, 0, size) for share in shares]
        counted = [index for cut in cuts for piece in cut for index, _, counts in piece if counts]
        assert counted == list(range(samples))
        assert len({len(cut) for cut in cuts}) == 1
        pieces = [piece for cut in cuts for piece in cut]
        assert all(len(piece) <= (size or samples) for piece in pieces)
        assert not stand_in or all(pieces)
        alone = any(len(piece) == 1 for piece in pieces)
        assert shares[0].may_be_one_of(samples, size) == alone


def test_the_last_short_batch_is_kept() -> None:
    sizes = [len(b["sample_index"]) for b in loader().batches(0)]
    assert sizes == [4, 4, 3]
    assert len(loader()) == 3
    assert len(loader(count=12)) == 3
    assert len(loader(count=0)) == 0


def test_a_short_last_batch_can_be_left_out_of_training_alone() -> None:
    dropping = loader(drop_last=True)
    assert [len(b["sample_index"]) for b in dropping.batches(0)] == [4, 4]
    assert len(dropping) == 2
    assert same(list(dropping.batches(0)), list(loader().batches(0))[:2])
    seen = {int(i) for e in range(9) for b in dropping.batches(e) for i in b["sample_index"]}
    assert seen == set(range(11))  # other samples are left out each time
    assert len(loader(drop_last=True, shuffle=False)) == 3
    assert len(loader(drop_last=True, count=8)) == 2


def test_a_split_smaller_than_a_batch_is_kept() -> None:
    assert [len(b["sample_index"]) for b in loader(drop_last=True, count=3).batches(0)] == [3]


def test_samples_know_their_epoch() -> None:
    assert all((b["epoch"] == 7).all() for b in loader().batches(epoch=7))


def test_workers_see_samples_differ_between_epochs() -> None:
    first, second = (
        torch.cat([b["draw"] for b in loader(workers=2, shuffle=False).batches(e)]) for e in (0, 1)
    )
    assert (first != second).all()


def test_rows_of_unequal_length_are_padded_at_the_end() -> None:
    rows = [np.arange(1, n + 1, dtype=np.int32) for n in (5, 198, 17)]
    padded = pad_rows(rows, -7)
    assert padded.shape == (3, 198)
    assert padded.dtype == np.int64
    for row, out in zip(rows, padded, strict=True):
        assert out[: len(row)].tolist() == row.tolist()
        assert (out[len(row) :] == -7).all()


class Sized(Drawn):
    """Samples of 1 to 40 positions, as a fixed draw has it."""

    def __init__(self, count: int = 500) -> None:
        super().__init__(count)
        self.lengths = keyed_generator(1, "length").integers(1, 41, count).tolist()

    def length(self, index: int) -> int:
        length: int = self.lengths[index]
        return length


def bucketing(
    source: Any = None, *, shuffle: bool = True, seed: int = 0, **settings: Any
) -> Loader:
    config = LoaderConfig(**{"batch_size": 4, **settings})
    return Loader(Sized() if source is None else source, stack, config, seed=seed, shuffle=shuffle)


def padding(loader: Loader, source: Sized, epoch: int = 0) -> float:
    """Share of a batch's positions that hold nothing."""
    used = total = 0
    for batch in loader.batches(epoch):
        lengths = [source.length(int(i)) for i in batch["sample_index"]]
        used, total = used + sum(lengths), total + max(lengths) * len(lengths)
    return 1 - used / total


SIZED_SETTINGS: list[dict[str, Any]] = [
    {"bucket_by_length": True},
    {"bucket_by_length": True, "batch_size": 7},
    {"max_tokens": 100},
    {"bucket_by_length": True, "max_tokens": 100, "batch_size": 16},
]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("settings", SIZED_SETTINGS, ids=str)
def test_every_sample_comes_exactly_once_an_epoch(settings: dict[str, Any], shuffle: bool) -> None:
    loader = bucketing(shuffle=shuffle, **settings)
    for epoch in range(3):
        batches = [b["sample_index"].tolist() for b in loader.batches(epoch)]
        visited = [i for batch in batches for i in batch]
        assert sorted(visited) == list(range(500))
        assert visited == epoch_order(loader, epoch)
        assert len(batches) == loader.count(epoch)
        assert max(map(len, batches)) <= settings.get("batch_size", 4)
    assert len(loader) == loader.count(0)


@pytest.mark.parametrize("settings", SIZED_SETTINGS, ids=str)
def test_sorted_batches_depend_on_seed_and_epoch_alone_and_resume(settings: Any) -> None:
    whole = list(bucketing(**settings).batches(2))
    assert same(whole, list(bucketing(**settings).batches(2)))
    assert same(whole[5:], list(bucketing(**settings, workers=2).batches(2, start=5)))
    orders = [epoch_order(bucketing(seed=s, **settings), e) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_batches_are_those_of_the_recipe() -> None:
    """Permute, cut in pools of 50 batches, sort each by length, cut, permute the batches."""
    source = Sized()
    order = keyed_generator(0, "order", 3).permutation(500).tolist()
    batches = []
    for at in range(0, 500, 200):
        pool = sorted(order[at : at + 200], key=source.length)
        batches += [pool[b : b + 4] for b in range(0, len(pool), 4)]
    places = keyed_generator(0, "batches", 3).permutation(125)
    expected = [batches[place] for place in places]
    found = [b["sample_index"].tolist() for b in bucketing(bucket_by_length=True).batches(3)]
    assert found == expected


def test_sorting_saves_padding_and_still_mixes() -> None:
    source = Sized()
    loader = bucketing(source, bucket_by_length=True)
    assert padding(loader, source) < 0.05 < 0.25 < padding(bucketing(source), source)
    batches = [frozenset(b["sample_index"].tolist()) for e in (0, 1) for b in loader.batches(e)]
    assert len(set(batches)) > 240  # of 250
    longest = [max(map(source.length, batch)) for batch in batches[:125]]
    assert longest != sorted(longest)  # short and long batches come mixed


def test_evaluation_is_sorted_by_length_where_it_is_on() -> None:
    source = Sized()
    loader = bucketing(source, bucket_by_length=True, shuffle=False)
    assert epoch_order(loader, 0) == sorted(range(500), key=source.length) == epoch_order(loader, 1)


@pytest.mark.parametrize("bucket", [False, True])
def test_no_batch_takes_more_tokens_than_it_may(bucket: bool) -> None:
    source = Sized()
    loader = bucketing(source, bucket_by_length=bucket, max_tokens=90, batch_size=500)
    counts = set()
    for epoch in range(4):
        sizes = []
        for batch in loader.batches(epoch):
            lengths = [source.length(int(i)) for i in batch["sample_index"]]
            assert max(lengths) * len(lengths) <= 90
            sizes.append(len(lengths))
        counts.add(len(sizes))
    assert max(sizes) > 4
    assert bucket or len(counts) > 1  # the number of batches is the epoch's own


def test_a_short_last_batch_is_left_out_before_sorting() -> None:
    loader = bucketing(Sized(11), bucket_by_length=True, drop_last=True)
    for epoch in range(3):
        assert [len(b["sample_index"]) for b in loader.batches(epoch)] == [4, 4]
        assert len(set(epoch_order(loader, epoch))) == 8
    assert len(loader) == 2


@pytest.mark.parametrize("setting", [{"bucket_by_length": True}, {"max_tokens": 9}])
def test_a_source_without_lengths_is_refused(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match=rf"loader\.{name}: .* no lengths"):
        bucketing(Drawn(), **setting)


def test_a_sample_longer_than_a_batch_may_be_is_named() -> None:
    source = Sized()
    worst = max(range(500), key=source.length)
    with pytest.raises(ConfigError, match=rf"max_tokens = 39: sample {worst} alone takes 40"):
        bucketing(source, max_tokens=39)


def test_an_empty_source_has_no_batches() -> None:
    for settings in SIZED_SETTINGS:
        assert list(bucketing(Sized(0), **settings).batches(0)) == []


def test_a_limit_on_tokens_and_batches_of_one_size_contradict() -> None:
    with pytest.raises(ValidationError, match="drop_last and max_tokens 9 contradict"):
        LoaderConfig(drop_last=True, max_tokens=9)
