"""The winner becomes an experiment that composes to the very same params."""

import shutil
from pathlib import Path

import pytest

from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.sweep.best import is_ours, write_best
from plumbline.sweep.overrides import same_params

CONF = Path(__file__).resolve().parents[2] / "conf"
LR = "tasks.vqa.train.trainer.optim.lr"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(CONF, tmp_path / "conf")
    return tmp_path


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{LR}=0.003"],
        ["experiment=smoke", f"{LR}=1e-05", "seed=3"],
        ["experiment=multi30k", "tasks.translate.train.trainer.epochs=1"],
        ["experiment=smoke", "optim@tasks.vqa.train.trainer.optim=muon", f"{LR}=0.01"],
        ["align=[]", "tasks=[]", "seed=1"],
        ["tasks=[vqa,sentiment]", "datasets=[scenes,sst2]"],
        [f"+{LR.rpartition('.')[0]}.parts.decoder={{lr:0.5}}"],
        ["tasks.vqa.train.freeze=[]", "tasks.vqa.train.model.decoder.pretrained='a b: c'"],
        ["align.image.train.task.widths=[64,128]", "threads=1"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_the_winner_composes_to_the_same_params(root: Path, overrides: list[str]) -> None:
    asked = compose_yaml(root / "conf", "config", overrides)
    path = write_best(root, "s", overrides, "exact_match 0.93")
    given = compose_yaml(root / "conf", "config", [f"experiment={path.stem}"])
    assert same_params(given, asked)
    assert not same_params(given, compose_yaml(root / "conf", "config", ["seed=99"]))


@pytest.mark.parametrize("overrides", [["seed=3"], ["experiment=hard"]])
def test_the_default_experiment_is_kept_unless_another_is_chosen(
    root: Path, overrides: list[str]
) -> None:
    config = root / "conf/config.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("experiment: null", "experiment: smoke"),
        encoding="utf-8",
    )
    asked = compose_yaml(root / "conf", "config", overrides)
    write_best(root, "s", overrides, "")
    assert same_params(compose_yaml(root / "conf", "config", ["experiment=s_best"]), asked)


def test_a_file_of_ours_is_replaced_and_one_edited_by_hand_is_kept(root: Path) -> None:
    path = write_best(root, "s", [f"{LR}=0.003"], "first")
    write_best(root, "s", [f"{LR}=0.004"], "second")
    assert "0.004" in path.read_text(encoding="utf-8")
    edited = path.read_text(encoding="utf-8").replace("0.004", "0.005")
    path.write_text(edited, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"conf/experiment/s_best\.yaml: not written by a sweep"):
        write_best(root, "s", [f"{LR}=0.006"], "third")
    assert path.read_text(encoding="utf-8") == edited


def test_a_file_of_the_user_is_never_replaced(root: Path) -> None:
    path = root / "conf/experiment/s_best.yaml"
    path.write_text("# @package _global_\nseed: 5\n", encoding="utf-8")
    assert not is_ours(path.read_text(encoding="utf-8"))
    with pytest.raises(ConfigError, match="stays as it is"):
        write_best(root, "s", ["seed=3"], "")
    assert path.read_text(encoding="utf-8") == "# @package _global_\nseed: 5\n"


def test_what_no_file_can_say_is_told(root: Path) -> None:
    with pytest.raises(ConfigError, match="takes a key away"):
        write_best(root, "s", ["~seed"], "")
    assert not (root / "conf/experiment/s_best.yaml").exists()


def test_params_differ_by_type_alone() -> None:
    assert same_params({"a": [1, float("nan")]}, {"a": [1, float("nan")]})
    assert not same_params({"a": 1}, {"a": 1.0})
    assert not same_params({"a": True}, {"a": 1})
    assert not same_params({"a": 1}, {"a": 1, "b": None})
