"""What is said of a pipeline while it runs."""

from plumbline.running.following import Followed

STAGES = ["digest_code", "check_params", "prepare@a", "finetune@b", "report"]


def test_each_stage_says_its_place_and_the_time_of_those_that_are_left() -> None:
    followed = Followed(STAGES, {"prepare@a": 2.0, "finetune@b": 60.0, "report": 3.0})
    assert followed.hear("Stage 'digest_code' didn't change, skipping") is None
    assert (
        followed.hear("Stage 'check_params' is cached - skipping run, checking out outputs") is None
    )
    said = followed.hear("Running stage 'prepare@a':")
    assert said == "stage 3 of 5: prepare@a, 2 s the last time, at most 1 min 5 s left"
    assert followed.hear("> python -m stages.prepare a") is None
    said = followed.hear("Running stage 'finetune@b':")
    assert said == "stage 4 of 5: finetune@b, 1 min 0 s the last time, at most 1 min 3 s left"
    assert followed.ran == ["prepare@a", "finetune@b"]


def test_what_never_ran_is_not_guessed() -> None:
    followed = Followed(STAGES, {"report": 3.0})
    said = followed.hear("Running stage 'prepare@a':")
    assert said == "stage 1 of 5: prepare@a, at most 3 s and 2 stages that never ran here left"
    assert Followed(STAGES, {}).hear("Running stage 'report':") == "stage 1 of 5: report"


def test_the_experiment_is_known_by_the_name_that_dvc_gave_it() -> None:
    followed = Followed(STAGES, {})
    followed.hear("Ran experiment(s): tawny-gird")
    assert followed.experiment == "tawny-gird"
