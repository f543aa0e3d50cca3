"""Loader processes that live over epochs give what those of one epoch give."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence

import pytest
import torch

from plumbline.batch import Batch, Sample
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator
from plumbline.loading.workers import LoaderError


class Drawn:
    """Samples with a draw of their own in each epoch."""

    def __len__(self) -> int:
        return 23

    def sample(self, index: int, epoch: int) -> Sample:
        return {"index": index, "draw": keyed_generator(5, "draw", epoch, index).random()}


def collate(samples: Sequence[Sample]) -> Batch:
    return {
        "draw": torch.tensor([s["draw"] for s in samples], dtype=torch.float64),
        "sample_index": torch.tensor([s["index"] for s in samples]),
        "process": os.getpid(),
    }


def loader(workers: int = 2) -> Loader:
    config = LoaderConfig(batch_size=4, workers=workers, timeout_s=60)
    return Loader(Drawn(), collate, config, seed=0, shuffle=True)


def draws(batches: Iterator[Batch]) -> list[list[float]]:
    return [batch["draw"].tolist() for batch in batches]


def test_the_same_processes_serve_every_epoch_and_end_with_the_block() -> None:
    kept, before = loader(), multiprocessing.active_children()
    with kept.keeping_workers():
        processes = [{batch["process"] for batch in kept.batches(epoch)} for epoch in range(3)]
        assert processes[0] == processes[1] == processes[2]
        assert len(processes[0]) == 2
        assert os.getpid() not in processes[0]
    assert multiprocessing.active_children() == before
    assert {batch["process"] for batch in kept.batches(3)}.isdisjoint(processes[0])


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_kept_processes_give_what_none_give(workers: int) -> None:
    alone, kept = loader(0), loader(workers)
    with kept.keeping_workers():
        for epoch in (0, 1, 5):
            assert draws(kept.batches(epoch)) == draws(alone.batches(epoch))
        assert draws(kept.batches(2, start=3)) == draws(alone.batches(2, start=3))


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_an_epoch_that_is_left_in_its_midst_leaves_nothing_to_the_next(taken: int) -> None:
    """As when the micro-batches of a step that ran out of memory get smaller."""
    alone, kept = loader(0), loader(2)
    with kept.keeping_workers():
        left = kept.batches(0)
        for _ in range(taken):
            next(left)
        left.close()
        pieces = [piece for cut in kept.micro_batches(0, start=taken, size=2) for piece in cut]
    expected = [piece for cut in alone.micro_batches(0, start=taken, size=2) for piece in cut]
    assert draws(iter(pieces)) == draws(iter(expected))


def test_an_epoch_begun_beside_another_is_not_mixed_with_it() -> None:
    kept = loader()
    with kept.keeping_workers():
        first, second = kept.batches(0), kept.batches(1)
        next(first)
        next(second)
        with pytest.raises(AssertionError, match="two lists were asked for at once"):
            next(first)


def test_processes_that_failed_are_started_anew() -> None:
    class Failing(Drawn):
        def sample(self, index: int, epoch: int) -> Sample:
            if epoch == 1 and index == 9:
                raise ValueError("no such sample")
            return super().sample(index, epoch)

    kept = loader()
    kept.source = Failing()
    with kept.keeping_workers():
        before = {batch["process"] for batch in kept.batches(0)}
        with pytest.raises(ValueError, match="no such sample"):
            list(kept.batches(1))
        assert multiprocessing.active_children() == []
        assert {batch["process"] for batch in kept.batches(2)}.isdisjoint(before)
        assert draws(kept.batches(2)) == draws(loader(0).batches(2))


def test_kept_processes_that_stand_still_are_told_in_one_line() -> None:
    class Still(Drawn):
        def sample(self, index: int, epoch: int) -> Sample:
            if epoch == 1:
                multiprocessing.Event().wait()
            return super().sample(index, epoch)

    kept = loader()
    kept.source = Still()
    kept._config = kept._config.model_copy(update={"timeout_s": 0.5})
    with kept.keeping_workers():
        list(kept.batches(0))
        left = kept.batches(1)
        with pytest.raises(LoaderError, match="none of the 2 loader processes has read a sample"):
            next(left)


@pytest.mark.parametrize(
    ("workers", "device", "processes", "expected"),
    [("auto", "cpu", 1, 0), ("auto", "cuda", 1, 8), ("auto", "cuda", 4, 3), (3, "cpu", 1, 3)],
)
def test_a_cpu_that_trains_loads_by_itself_and_a_gpu_has_processes(
    workers: int, device: str, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(14)))
    config = LoaderConfig.model_validate({"workers": workers})
    assert config.workers_for(device, processes) == expected
