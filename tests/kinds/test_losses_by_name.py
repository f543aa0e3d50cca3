"""A loss that is registered from outside trains any kind of work; what is measured stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plumbline.batch import LossSum
from plumbline.kind import known_kinds
from plumbline.kinds.alignment.settings import PAIR_LOSSES
from plumbline.kinds.classification.settings import CLASS_LOSSES
from plumbline.kinds.language.settings import TOKEN_LOSSES
from plumbline.kinds.regression.settings import VALUE_LOSSES
from plumbline.losses.classification import class_cross_entropy
from plumbline.losses.contrastive import info_nce
from plumbline.losses.language import token_cross_entropy
from plumbline.losses.regression import squared_error
from plumbline.registry import Registry
from plumbline.training.task import TrainingJob
from tests.tiny import CASES

TABLES: dict[str, Registry[str]] = {
    "alignment": PAIR_LOSSES,
    "classification": CLASS_LOSSES,
    "regression": VALUE_LOSSES,
    **dict.fromkeys(("vlm", "causal_lm", "masked_lm", "seq2seq"), TOKEN_LOSSES),
}
LOSSES = {
    "alignment": info_nce,
    "classification": class_cross_entropy,
    "regression": squared_error,
    **dict.fromkeys(("vlm", "causal_lm", "masked_lm", "seq2seq"), token_cross_entropy),
}
OF_LIKELIHOOD = ("vlm", "causal_lm", "masked_lm", "seq2seq")
"""Kinds whose validation says a perplexity, whatever trains."""


def trebled(kind: str) -> Callable[..., LossSum]:
    def loss(*given: Tensor, **settings: Any) -> LossSum:
        found = LOSSES[kind](*given, **settings)  # type: ignore[operator]
        return LossSum(3 * found.total, found.count)

    return loss


def __getattr__(name: str) -> Callable[..., LossSum]:
    """What the place of a kind's loss leads to."""
    if name.removeprefix("of_") not in LOSSES:
        raise AttributeError(name)
    return trebled(name.removeprefix("of_"))


def totals(job: TrainingJob, *, measuring: bool) -> tuple[float, int]:
    task = job.validation_task or job.task if measuring else job.task
    batch = job.task.collate([job.train.sample(index, 0) for index in range(4)])
    with torch.inference_mode():
        found = task.loss(job.model.eval(), batch)
    return float(found.total), int(found.count)


@pytest.mark.parametrize("name", {case.kind: name for name, case in CASES.items()}.values())
@pytest.mark.parametrize("measuring", [False, True])
def test_every_kind_trains_with_a_registered_loss_and_measures_what_it_did(
    make_job: Callable[..., TrainingJob],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    measuring: bool,
) -> None:
    kind = CASES[name].kind
    table = TABLES[kind]
    monkeypatch.setattr(table, "_entries", table.entries())
    table.register("trebled", f"{__name__}:of_{kind}")
    plain = {"label_smoothing": 0.0} if kind == "seq2seq" else {}
    before = totals(make_job(name, task=plain), measuring=measuring)
    after = totals(make_job(name, task={**plain, "loss": "trebled"}), measuring=measuring)
    factor = 1 if measuring and kind in OF_LIKELIHOOD else 3
    assert after[1] == before[1] > 0
    assert after[0] == pytest.approx(factor * before[0], rel=1e-6)


@pytest.mark.parametrize("kind", TABLES)
def test_an_unknown_loss_is_told_the_nearest(kind: str) -> None:
    nearest = next(iter(TABLES[kind]))
    case = next(case for case in CASES.values() if case.kind == kind)
    with pytest.raises(ValidationError, match=f"did you mean {nearest}"):
        known_kinds()[kind].settings.task.model_validate(case.task | {"loss": f"{nearest}x"})
