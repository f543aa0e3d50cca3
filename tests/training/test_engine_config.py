"""What an engine cannot do together with other settings is refused before any work."""

from typing import Any

import pytest

from plumbline.training.config import TrainerConfig

DEEPSPEED = {"engine": {"name": "deepspeed"}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"processes": 2, "shard_layers": True}, "and shard_layers both spread the model"),
        ({"precision": "fp16"}, "goes with precision fp32 and bf16, not fp16"),
        ({"micro_batch_size": "auto"}, "contradicts micro_batch_size: auto"),
        ({"failing_batch": "skip"}, "contradicts failing_batch: skip"),
        ({"compile": {"mode": "default"}}, "contradicts compile.mode default: set none"),
        ({"optim": {"name": "muon"}}, "optim.name muon cannot train by: use adamw or sgd"),
        ({"optim": {"name": "adamw_8bit"}}, "optim.name adamw_8bit cannot train by"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainerConfig.model_validate(DEEPSPEED | settings)


def test_its_passes_need_all_processes_and_those_of_the_exact_core_do_not() -> None:
    assert TrainerConfig.model_validate(DEEPSPEED).meets
    assert not TrainerConfig().meets
    assert TrainerConfig(processes=2, shard_layers=True).meets


def test_an_unknown_engine_is_told_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"deepsped.*did you mean deepspeed"):
        TrainerConfig.model_validate({"engine": {"name": "deepsped"}})
