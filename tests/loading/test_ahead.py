"""Batches that travel: nothing of them changes, and the next one is on its way before a step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from plumbline.batch import Batch
from plumbline.loading.ahead import Lane, one_ahead
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.transform_config import Normalization
from plumbline.loading.transforms import RawImages

CPU = torch.device("cpu")


def batch(number: int) -> Batch:
    pixels = torch.full((2, 4, 4, 3), number, dtype=torch.uint8)
    raw = RawImages.of(pixels, Normalization(preset="half"), 4)
    return {"media": {"pixel_values": raw}, "texts": ["a"], "sample_index": torch.tensor([number])}


class Watched(Lane):
    """Writes down what is done, in the order of the queues of a GPU."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.seen: list[str] = []
        self.pinned: set[int] = set()
        self.held: set[int] = set()

    @override
    def beside(self) -> AbstractContextManager[object]:
        self.seen.append("send")
        return nullcontext()

    @override
    def pin(self, tensor: Tensor) -> Tensor:
        self.pinned.add(id(tensor))
        return tensor

    @override
    def mark(self) -> Callable[[], None]:
        number = self.seen.count("send")
        return lambda: self.seen.append(f"wait for {number}")

    @override
    def hold(self, tensor: Tensor) -> Tensor:
        self.held.add(id(tensor))
        return tensor


def test_the_next_batch_is_sent_before_one_is_given() -> None:
    lane = Watched()
    for _ in one_ahead(iter([[batch(n)] for n in range(3)]), lane):
        lane.seen.append("step")
    assert lane.seen == [
        *("send", "send", "wait for 1", "step"),
        *("send", "wait for 2", "step", "wait for 3", "step"),
    ]


def test_every_tensor_that_travels_is_pinned_and_held() -> None:
    lane, sent = Watched(), batch(7)
    raw = sent["media"]["pixel_values"]
    list(one_ahead(iter([[sent]]), lane))
    for tensor in (raw.pixels, raw.scale, raw.shift):
        assert id(tensor) in lane.pinned & lane.held
    assert id(sent["sample_index"]) not in lane.pinned  # it is read on the host


def test_a_batch_arrives_finished_and_whole() -> None:
    ((found,),) = one_ahead(iter([[batch(255)]]), Lane(CPU))
    torch.testing.assert_close(found["media"]["pixel_values"], torch.ones(2, 3, 4, 4))
    assert found["texts"] == ["a"]
    assert found["sample_index"].tolist() == [255]
    assert list(one_ahead(iter([]), Lane(CPU))) == []


def test_what_was_sent_goes_with_whoever_stops_in_the_midst() -> None:
    open_until: list[int] = []

    def made() -> Iterator[list[Batch]]:
        try:
            for number in range(9):
                yield [batch(number)]
        finally:
            open_until.append(number)

    batches = made()
    ahead = one_ahead(batches, Lane(CPU))
    next(ahead)
    ahead.close()
    batches.close()
    assert open_until == [1]


class Numbers:
    """Samples that are their numbers."""

    def __len__(self) -> int:
        return 11

    def sample(self, index: int, epoch: int) -> dict[str, int]:
        return {"index": index, "epoch": epoch}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_same_batches_over_a_lane(workers: int) -> None:
    def collate(samples: object) -> Batch:
        assert isinstance(samples, list)
        numbers = torch.tensor([sample["index"] for sample in samples])
        return {"x": numbers * 2, "sample_index": numbers}

    def batches(lane: Lane | None) -> list[list[list[int]]]:
        config = LoaderConfig(batch_size=4, workers=workers)
        loader = Loader(Numbers(), collate, config, seed=0, shuffle=True)
        loader._lane = lane
        return [
            [b["x"].tolist() for b in made] for made in loader.micro_batches(1, start=1, size=3)
        ]

    assert batches(Watched()) == batches(None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_travel_beside_a_busy_gpu_are_whole(workers: int) -> None:
    """Were one read before it has come, or its memory given to the next one, its sum would tell."""

    def collate(samples: object) -> Batch:
        assert isinstance(samples, list)
        numbers = torch.tensor([sample["index"] for sample in samples])
        pixels = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 512, 512, 3).contiguous()
        raw = RawImages.of(
            pixels, Normalization(preset=None, mean=[0.0] * 3, std=[1 / 255] * 3), 512
        )
        return {"pixel_values": raw, "sample_index": numbers}

    gpu = torch.device("cuda")
    config = LoaderConfig(batch_size=4, workers=workers)
    loader = Loader(Numbers(), collate, config, seed=0, shuffle=True, device=gpu)
    busy = torch.randn(4096, 4096, device=gpu)
    with loader.keeping_workers():
        for epoch in range(20):
            for found in loader.batches(epoch):
                for _ in range(8):
                    busy = (busy @ busy).clamp(-1, 1)
                means = found["pixel_values"].mean(dim=(1, 2, 3)).cpu()
                torch.testing.assert_close(means, found["sample_index"].float())
