"""Memory that is given again was given back, by everybody."""

import torch

from plumbline.loading.kept_memory import MOST, KeptMemory


def test_memory_is_given_again_once_nobody_holds_it() -> None:
    memory = KeptMemory()
    first = memory.take(2, 3)
    place = first.data_ptr()
    assert memory.take(2, 3).data_ptr() != place
    del first
    assert memory.take(3, 2).data_ptr() == place
    assert memory.take(5).data_ptr() == place  # a short batch fits into it


def test_a_view_and_a_graph_hold_it_too() -> None:
    memory = KeptMemory()
    batch = memory.take(2, 3).fill_(2.0)
    place, part = batch.data_ptr(), batch[1]
    del batch
    other = memory.take(2, 3)
    assert other.data_ptr() != place
    del part
    weight = torch.ones(3, requires_grad=True)
    batch = memory.take(2, 3).fill_(2.0)
    loss = (batch * weight).sum()
    del batch
    assert memory.take(2, 3).fill_(7.0).data_ptr() not in (place, other.data_ptr())
    loss.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((3,), 4.0))


def test_no_more_is_kept_than_a_training_holds() -> None:
    memory = KeptMemory()
    batches = [memory.take(4) for _ in range(MOST + 3)]
    assert len({batch.data_ptr() for batch in batches}) == MOST + 3
    assert len(memory._kept) == MOST
    del batches
    memory.take(8)  # too large for any of them
    assert [array.size for array in memory._kept] == [8]
