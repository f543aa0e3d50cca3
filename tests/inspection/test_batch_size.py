"""The batch size that trains fastest within a limit."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest

from plumbline.errors import ConfigError, TrainingError
from plumbline.inspection import batch_size
from plumbline.inspection.batch_size import Trial, choose


def trial(size: int, step_s: float, memory: int) -> Trial:
    return Trial(size, [step_s, step_s / 2, step_s * 9, step_s, step_s], memory)


def test_the_smallest_of_the_fastest_that_fit_is_chosen() -> None:
    trials = [trial(1, 0.1, 10), trial(2, 0.101, 11), trial(4, 0.2, 13), trial(8, 0.1, 17)]
    assert trials[1].samples_per_s == pytest.approx(2 / 0.101)
    best = choose(trials, limit=13)
    assert best is not None
    assert best.batch_size == 2  # 4 is faster by 1 %, 8 does not fit
    assert choose(trials, limit=9) is None


@pytest.mark.parametrize("name", ["features", "causal_lm_stream", "seq2seq", "align_image"])
def test_sizes_double_up_to_the_largest(ask: Callable[..., Any], name: str) -> None:
    found = ask(name, "batch-size", "--max", "4", "--repeats", "2")
    assert [t["batch_size"] for t in found["trials"]] == [1, 2, 4]
    assert all(len(t["steps_s"]) == 2 and t["samples_per_s"] > 0 for t in found["trials"])
    assert all(t["memory_bytes"] > 1 << 20 for t in found["trials"])
    assert found["best"] in (1, 2, 4)
    assert found["machine"]["device"] == "cpu"


def options(**changed: Any) -> Namespace:
    return Namespace(**{"max": 64, "repeats": 2, "seconds": 60, "memory_mb": None} | changed)


def test_running_out_of_memory_ends_the_trials(
    open_target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_target("features")
    loss = target.job.task.loss

    def hungry(model: Any, batch: Any) -> Any:
        if len(batch["sample_index"]) > 2:
            raise MemoryError("no more")
        return loss(model, batch)

    object.__setattr__(target.job.task, "loss", hungry)
    found = batch_size.inspect(target, options()).data
    assert [t["batch_size"] for t in found["trials"]] == [1, 2]
    assert found["stopped"] == "out of memory at 4"


def test_another_fault_is_not_taken_for_a_lack_of_memory(open_target: Any) -> None:
    target = open_target("features")

    def broken(model: Any, batch: Any) -> Any:
        raise ValueError("no such class")

    object.__setattr__(target.job.task, "loss", broken)
    with pytest.raises(TrainingError, match="ValueError: no such class"):
        batch_size.inspect(target, options())


def test_a_limit_below_the_model_is_refused_in_one_line(open_target: Any) -> None:
    with pytest.raises(TrainingError, match="features: not even one sample fits into 1 MiB"):
        batch_size.inspect(open_target("features"), options(memory_mb=1, max=2))


def test_the_time_limit_ends_the_trials(open_target: Any) -> None:
    found = batch_size.inspect(open_target("features"), options(seconds=0)).data
    assert [t["batch_size"] for t in found["trials"]] == [1]
    assert found["stopped"] == "--seconds would be over during 2"


def test_a_model_that_takes_no_single_sample_is_measured_from_two_on(
    ask: Callable[..., Any],
) -> None:
    stages = "[{channels: 8}, {channels: 8}, {channels: 8}, {channels: 8}]"
    resnet = f"{{name: resnet, image_size: 16, stem_channels: 8, stages: {stages}}}"
    found = ask(
        "image",
        "batch-size",
        "~tasks.image.train.model.encoder",
        f"+tasks.image.train.model.encoder={resnet}",
        "--max",
        "4",
        "--repeats",
        "1",
    )
    assert [trial["batch_size"] for trial in found["trials"]] == [2, 4]


def test_what_no_batch_size_mends_is_told(ask: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        ask("features", "batch-size", "tasks.features.train.freeze=[encoder,heads]")
