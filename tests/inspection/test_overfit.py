"""A sound set-up learns one batch by heart; a broken one is told in one line what is wrong."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
import torch

from plumbline.batch import LossSum
from plumbline.errors import ConfigError, PlumblineError, TrainingError
from plumbline.inspection.overfit import inspect


def options(**changed: Any) -> Namespace:
    return Namespace(**{"samples": 4, "steps": 150, "share": 0.1} | changed)


@pytest.mark.parametrize("name", ["causal_lm_rows", "features", "regression", "align_image", "vlm"])
def test_a_sound_set_up_passes(ask: Callable[..., Any], name: str) -> None:
    found = ask(name, "overfit", "--samples", "4", "--steps", "300")
    assert found["losses"][-1] < 0.1 * found["losses"][0]
    assert found["steps"] == len(found["losses"]) <= 300


def test_label_smoothing_does_not_make_a_sound_set_up_fail(ask: Callable[..., Any]) -> None:
    smoothing = "+tasks.seq2seq.train.task.label_smoothing=0.5"
    found = ask("seq2seq", "overfit", smoothing, "--samples", "2", "--steps", "300")
    assert found["losses"][-1] < 0.1 * found["losses"][0]


def spoil(target: Any, change: Callable[[LossSum], LossSum]) -> None:
    loss = target.job.task.loss
    object.__setattr__(target.job.task, "loss", lambda model, batch: change(loss(model, batch)))


def test_a_detached_loss_fails(open_target: Any) -> None:
    target = open_target("features")
    spoil(target, lambda loss: LossSum(loss.total.detach(), loss.count))
    with pytest.raises(
        TrainingError, match=r"features: one batch is not learnt.*no gradient reaches a trained"
    ):
        inspect(target, options(steps=5))


def test_a_frozen_model_fails(open_target: Any) -> None:
    target = open_target("features", "tasks.features.train.freeze=[encoder,heads]")
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        inspect(target, options())


def test_labels_shuffled_at_each_step_fail(open_target: Any) -> None:
    target = open_target("features")
    collate = target.job.task.collate
    random = torch.Generator().manual_seed(0)

    def shuffled(samples: Any) -> Any:
        batch = collate(samples)
        labels = {
            head: torch.where(known >= 0, torch.randint(0, 2, known.shape, generator=random), known)
            for head, known in batch["labels"].items()
        }
        return {**batch, "labels": labels}

    object.__setattr__(target.job.task, "collate", shuffled)
    with pytest.raises(TrainingError, match=r"labels\.\w+.* of the batch changes each time"):
        inspect(target, options(samples=12, steps=40))


def test_a_learning_rate_of_nothing_fails(open_target: Any) -> None:
    target = open_target("features", "tasks.features.train.trainer.optim.lr=1e-12")
    with pytest.raises(TrainingError, match=r"hardly moves: raise trainer\.optim\.lr \(1e-12\)"):
        inspect(target, options(steps=10))


def test_a_goal_out_of_reach_names_the_steps(open_target: Any) -> None:
    target = open_target("causal_lm_rows")
    with pytest.raises(TrainingError, match=r"still falling: --steps 32, or raise"):
        inspect(target, options(steps=8))


def test_the_command_ends_with_one_line_and_code_1(
    here: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from plumbline.cli.main import main

    asked = ["plumbline", "inspect", "features", "overfit", "--steps", "3"]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("error: "))
    assert "features: one batch is not learnt" in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("feature", r"feature: no such task or alignment; did you mean features\? \(there is "),
        ("align_audio", r"work/cache/clips: not there yet; run dvc repro tokenize_text@clips"),
    ],
)
def test_what_is_not_there_is_told(open_target: Any, name: str, message: str) -> None:
    with pytest.raises(PlumblineError, match=message):
        open_target(name)
