"""What a step takes of memory by the size of its micro-batches."""

from collections.abc import Callable
from typing import Any

import pytest

from plumbline.training import fitting


def test_smaller_micro_batches_take_less(ask: Callable[..., Any]) -> None:
    found = ask("vlm", "memory", "tasks.vlm.train.loader.batch_size=8")
    assert [row["micro_batch_size"] for row in found["sizes"]] == [8, 4, 2, 1]
    totals = [row["total"] for row in found["sizes"]]
    assert totals == sorted(totals, reverse=True)
    for part in ("weights", "gradients", "optimizer", "copies"):
        assert len({row[part] for row in found["sizes"]}) == 1
    for row in found["sizes"]:
        parts = ("weights", "gradients", "optimizer", "activations", "copies")
        assert row["total"] == sum(row[part] for part in parts)
    assert found["largest_that_fits"] == 8


def test_the_largest_that_fits_is_named(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ask("align_image", "memory")
    third = found["sizes"][1]
    room = third["total"] / fitting.USED_SHARE - third["weights"] + 1
    monkeypatch.setattr(fitting, "free_bytes", lambda device: int(room))
    assert ask("align_image", "memory")["largest_that_fits"] == third["micro_batch_size"] == 3
