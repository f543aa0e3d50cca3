"""The kill campaign in short: `make faults` is the long form (FP01-FP03, FP29)."""

import json
import random

import pytest

from tests.faults.kills import TARGETS, Tally, Target, attack
from tests.pipeline.checkout import Checkout

SHORT = {"prepare": 3, "validate": 3, "tokenize_text": 2, "pretrain_alignment": 8}


@pytest.mark.parametrize("target", [t for t in TARGETS if t.stage in SHORT], ids=lambda t: t.stage)
def test_a_stage_killed_again_and_again_ends_as_if_it_never_was(
    cached: Checkout, target: Target
) -> None:
    tally = Tally()
    attack(cached, target, kills=SHORT[target.stage], random_=random.Random(7), tally=tally)
    assert tally.clean, json.dumps(tally.report(), indent=2)
    assert tally.kills[target.stage] >= SHORT[target.stage]
