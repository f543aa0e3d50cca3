"""Batches depend on (seed, epoch) alone: not on workers, nor on where an epoch is entered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.batch import Batch, Sample
from plumbline.loading.loader import Loader, pad_rows
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator


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
    assert loader().epoch_order(1) == loader(batch_size=2).epoch_order(1)
    orders = [loader(seed=s).epoch_order(e) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(11)) for order in orders)


def test_evaluation_goes_in_order() -> None:
    assert loader(shuffle=False).epoch_order(3) == list(range(11))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", range(4))
def test_an_epoch_entered_at_batch_k_goes_on_exactly(start: int, workers: int) -> None:
    whole = list(loader().batches(epoch=1))
    assert same(whole[start:], list(loader(workers=workers).batches(epoch=1, start=start)))


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
