"""Cutting a window into micro-batches is a choice of memory: the gradients are the same."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum
from plumbline.losses.contrastive import info_nce, matryoshka, shared_positives, sigmoid_pairs
from plumbline.training.task import Task, WindowLoss
from plumbline.training.window import Gradients
from tests.training.together import ALONE

PAIRS, WIDTH = 64, 8
CUTS = [[16] * 4, [7] * 9 + [1], [1] * 64]
LOSSES = ["info_nce", "sigmoid"]
WIDTHS = [[WIDTH], [2, 4, WIDTH], [4]]


class PairModel(nn.Module):
    """Two small towers in float64, with whatever stands between them and their projection."""

    def __init__(self, between: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.image = nn.Sequential(nn.Linear(6, 10), between(), nn.Linear(10, WIDTH))
        self.text = nn.Sequential(nn.Linear(4, 10), between(), nn.Linear(10, WIDTH))
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.bias = nn.Parameter(torch.tensor(-3.0))
        self.double()


def embed(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    assert isinstance(model, PairModel)
    return {
        "images": model.image(batch["images"]),
        "texts": model.text(batch["texts"]),
        "scale": model.log_scale.exp(),
        "bias": model.bias,
        "image_number": batch["image_number"],
        "text_number": batch["text_number"],
    }


def window_loss(
    model: nn.Module, window: Sequence[Mapping[str, Tensor]], *, name: str, widths: list[int]
) -> LossSum:
    images, texts, image_number, text_number = (
        torch.cat([part[key] for part in window])
        for key in ("images", "texts", "image_number", "text_number")
    )
    if name == "info_nce":
        pair_loss = partial(info_nce, logit_scale=window[0]["scale"])
    else:
        pair_loss = partial(
            sigmoid_pairs, logit_scale=window[0]["scale"], logit_bias=window[0]["bias"]
        )
    positives = shared_positives(image_number, text_number)
    return matryoshka(images, texts, positives, widths, pair_loss)


def pair_task(name: str = "info_nce", widths: Sequence[int] = (2, 4, WIDTH)) -> Task:
    rule = partial(window_loss, name=name, widths=list(widths))
    return Task(
        name="pairs",
        collate=collate,
        loss=lambda model, batch: rule(model, [embed(model, batch)]),
        window=WindowLoss(embed=embed, loss=rule),
    )


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Pairs made of the toy's points; every fifth image and every seventh text is the same one."""
    index = torch.tensor([s["index"] for s in samples])
    x = torch.stack([s["x"] for s in samples])
    return {
        "images": torch.cat([x, x.cos()], dim=1),
        "texts": torch.cat([x.square(), x.sum(dim=1, keepdim=True)], dim=1),
        "image_number": torch.where(index % 5 == 0, 0, index),
        "text_number": torch.where(index % 7 == 0, -(index % 2), index),
        "sample_index": index,
    }


def cut(toy: Any, sizes: Sequence[int]) -> list[Batch]:
    points = toy.points(PAIRS)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    rows = [points.sample(i, 0) for i in range(PAIRS)]
    return [collate(rows[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def gradients(model: nn.Module, task: Task, window: Sequence[Batch]) -> dict[str, Tensor]:
    """Gradients of the mean over the window; a parameter without one has zeros."""
    model.zero_grad()
    scaler = torch.GradScaler("cpu", enabled=False)
    sums = Gradients(model, task, ALONE, scaler).accumulate(window, range(len(window)))
    assert sums.count == PAIRS
    zero = torch.zeros(())
    return {
        "loss": torch.tensor(sums.total / PAIRS, dtype=torch.float64),
        **{n: (zero if p.grad is None else p.grad) / PAIRS for n, p in model.named_parameters()},
    }


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", CUTS, ids=["16 x 4", "7 x 9 + 1", "1 x 64"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_do_not_depend_on_how_a_window_is_cut(
    toy: Any, name: str, widths: list[int], sizes: list[int]
) -> None:
    model, task = PairModel(), pair_task(name, widths)
    whole = gradients(model, task, cut(toy, [PAIRS]))
    assert whole["log_scale"].abs() > 1e-3  # the scale learns too
    assert_equal(gradients(model, task, cut(toy, sizes)), whole, 1e-6)
    without = gradients(model, replace(task, window=None), cut(toy, sizes))
    assert abs(without["log_scale"] - whole["log_scale"]) > 1e-3  # what the window is for


def test_a_single_micro_batch_is_trained_as_without_a_window_to_the_bit(toy: Any) -> None:
    model, task = PairModel(partial(nn.Dropout, 0.3)), pair_task()
    with_window = gradients(model, task, cut(toy, [PAIRS]))
    assert_equal(with_window, gradients(model, replace(task, window=None), cut(toy, [PAIRS])), 0.0)


@pytest.mark.parametrize("sizes", CUTS[:2], ids=["16 x 4", "7 x 9 + 1"])
def test_the_second_embedding_sees_the_dropout_of_the_first(toy: Any, sizes: list[int]) -> None:
    model, task = PairModel(partial(nn.Dropout, 0.5)), pair_task()
    window = cut(toy, sizes)
    found = gradients(model, task, window)
    assert_equal(gradients(model, task, window), found, 0.0)
    parts = []
    for seed, batch in enumerate(window):  # all graphs in memory at once, embedded only once
        torch.manual_seed(seed)
        parts.append(embed(model, batch))
    loss = window_loss(model, parts, name="info_nce", widths=[2, 4, WIDTH])
    model.zero_grad()
    (loss.total / PAIRS).backward()
    expected = {n: torch.zeros(()) if p.grad is None else p.grad for n, p in named(model)}
    expected["loss"] = (loss.total / PAIRS).detach()
    assert loss.total.isfinite()
    assert_equal(found, expected, 1e-12)


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


def test_moving_statistics_move_once_a_micro_batch(toy: Any) -> None:
    window = cut(toy, [16] * 4)
    cached, plain = (PairModel(partial(nn.BatchNorm1d, 10)) for _ in range(2))
    gradients(cached, pair_task(), window)
    for batch in window:
        embed(plain, batch)
    for (name, one), (_, other) in zip(cached.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(one, other), name


def test_a_frozen_tower_is_passed_by(toy: Any) -> None:
    """And the other gets what it gets without."""
    model, window = PairModel(), cut(toy, [16] * 4)
    whole = gradients(model, pair_task(), window)
    model.image.requires_grad_(False)
    found = gradients(model, pair_task(), window)
    assert not found["image.0.weight"].any()
    for name in ("text.0.weight", "text.2.bias", "log_scale"):
        torch.testing.assert_close(found[name], whole[name], rtol=1e-12, atol=0)


def test_micro_batches_of_a_whole_window_are_recorded_with_its_loss(toy: Any) -> None:
    scaler = torch.GradScaler("cpu", enabled=False)
    pass_over = Gradients(PairModel(), pair_task(), ALONE, scaler)
    sums = pass_over.accumulate(cut(toy, CUTS[1]), range(10))
    assert [count for _, count in sums.micro] == CUTS[1]
    assert {loss for loss, _ in sums.micro} == {sums.total / PAIRS}


def test_training_does_not_depend_on_how_windows_are_cut(make_toy: Callable[[], Any]) -> None:
    found = []
    for batch_size, accumulate in ((16, 1), (4, 4), (3, 6)):
        # 32 samples: windows of 16, and of 18 and 14.
        trainer = make_toy().trainer(
            PairModel(),
            task=pair_task(),
            samples=32,
            validation=16,
            batch_size=batch_size,
            grad_accum_steps=accumulate,
            epochs=3,
            optim={"name": "sgd", "lr": 0.05},
        )
        trainer.fit()
        found.append({name: p.detach() for name, p in named(trainer.model)})
    assert_equal(found[1], found[0], 1e-6)
    assert any(not torch.allclose(found[2][n], found[0][n], atol=1e-4) for n in found[0])


def test_training_on_whole_windows_agrees_with_a_plain_loop(toy: Any) -> None:
    """Each step is one of descent on the loss of all pairs of its micro-batches together."""
    seen: list[Batch] = []

    def watched(samples: Sequence[Mapping[str, Any]]) -> Batch:
        seen.append(collate(samples))
        return seen[-1]

    trainer = toy.trainer(
        PairModel(),
        task=replace(pair_task(), collate=watched),
        samples=30,
        validation=None,
        validate_every_epochs=0,
        batch_size=5,
        grad_accum_steps=3,
        epochs=2,
        optim={"name": "sgd", "lr": 0.05, "weight_decay": 0.0, "sgd": {"momentum": 0.9}},
        max_grad_norm=None,
    )
    trainer.fit()
    model = PairModel()
    plain = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for at in range(0, len(seen), 3):
        whole = {name: torch.cat([batch[name] for batch in seen[at : at + 3]]) for name in seen[0]}
        loss = pair_task().loss(model, whole)
        plain.zero_grad()
        (loss.total / loss.count).backward()
        plain.step()
    assert len(seen) == 12
    found, expected = (dict(each.state_dict()) for each in (trainer.model, model))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_killed_run_with_whole_windows_ends_in_the_same_bits(
    make_toy: Callable[[], Any], killed: type[Exception]
) -> None:
    def train(toy: Any, **more: Any) -> Any:
        return toy.trainer(
            PairModel(partial(nn.Dropout, 0.4)),
            task=pair_task(),
            samples=24,
            grad_accum_steps=3,
            epochs=2,
            checkpoint={"every_steps": 1},
            **more,
        )

    whole = train(make_toy())
    expected = whole.fit().history
    toy = make_toy()
    with pytest.raises(killed):
        train(toy, on_log=toy.killed_at(3)).fit()
    torch.manual_seed(77)
    again = train(toy)
    assert again.fit().history == expected
    for (_, one), (_, other) in zip(named(again.model), named(whole.model), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_window_is_embedded_and_lost_in_the_precision_that_is_set(
    toy: Any, precision: str, dtype: torch.dtype
) -> None:
    seen: list[tuple[str, torch.dtype]] = []

    def embed_floats(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        floats = {n: t.float() if t.is_floating_point() else t for n, t in batch.items()}
        embedded = embed(model, floats)
        seen.append(("embed", embedded["images"].dtype))
        return embedded

    def loss(model: nn.Module, window: Sequence[Mapping[str, Tensor]]) -> LossSum:
        # A product inside of the loss, of numbers that are not rounded yet.
        images, texts = (
            torch.cat([part[n].float() for part in window]) for n in ("images", "texts")
        )
        seen.append(("loss", (images @ texts.T).dtype))
        return LossSum((images - texts).square().sum(), torch.tensor(len(images)))

    task = replace(pair_task(), window=WindowLoss(embed=embed_floats, loss=loss))
    model, machine = PairModel().float(), replace(ALONE, precision=precision)
    scaler = torch.GradScaler("cpu", enabled=False)
    Gradients(model, task, machine, scaler).accumulate(cut(toy, [32, 32]), range(2))
    assert set(seen) == {("embed", dtype), ("loss", dtype)}
