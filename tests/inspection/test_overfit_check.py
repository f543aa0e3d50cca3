"""The overfit check inside a run: by setting, before the training, without a trace in its bits."""

import logging
import shutil
from pathlib import Path

import pytest

from plumbline import paths
from plumbline.errors import TrainingError
from plumbline.files import sha256_file
from plumbline.stages import finetune

TRAINER = "tasks.features.train.trainer"
EPOCHS = f"+{TRAINER}.epochs=3"
CHECK = f"+{TRAINER}.overfit_check={{samples: 4, steps: 300}}"


@pytest.fixture
def own(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which a stage may write."""
    shutil.copy(project / "params.yaml", tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/cache").symlink_to(project / "work/cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sound_training_passes_and_has_the_bits_of_one_without_the_check(
    own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = paths.finetuned("features") / "model.safetensors"
    finetune.main(["features", EPOCHS])
    expected = sha256_file(weights)
    assert "overfit_check" not in caplog.text
    with caplog.at_level(logging.INFO):
        finetune.main(["features", EPOCHS, CHECK])
    assert "overfit_check: ok: 4 samples learnt by heart" in caplog.text
    assert sha256_file(weights) == expected


def test_a_training_that_learns_nothing_fails_before_its_first_step(own: Path) -> None:
    short = CHECK.replace("300", "30")
    with pytest.raises(
        TrainingError,
        match=r"overfit_check: features: one batch is not learnt: .*raise trainer\.optim\.lr "
        r"\(1e-09\).*trainer\.overfit_check: null leaves the check out",
    ):
        finetune.main(["features", EPOCHS, short, f"{TRAINER}.optim.lr=1e-9"])
    assert not paths.finetuned("features").exists()
    assert not (own / ".ckpt").exists()
