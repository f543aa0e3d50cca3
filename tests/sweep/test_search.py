"""What no run would accept is refused before any is queued."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import ConfigError
from plumbline.sweep.config import SweepConfig, load_sweep
from plumbline.sweep.search import Search, check_sweep

ROOT = Path(__file__).resolve().parents[2]
LR = "tasks.vqa.train.trainer.optim.lr"
EXAMPLES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "stages").mkdir()
    shutil.copy(ROOT / "stages/check_params.py", tmp_path / "stages")
    return tmp_path


def config(space: dict[str, Any], **changed: Any) -> SweepConfig:
    settings = {"metric": "m.json:score", "direction": "maximize", "points": 4}
    return SweepConfig.model_validate({**settings, "space": space, **changed})


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_sweep_of_the_repository_is_valid(root: Path, name: str) -> None:
    check_sweep(root, load_sweep(ROOT, name))


@pytest.mark.parametrize(
    ("space", "changed", "message"),
    [
        ({LR.replace("optim", "optm"): [1]}, {}, rf"optm\.lr: unknown key; did you mean {LR}\?"),
        ({LR: [0.1]}, {"overrides": ["sed=1"]}, r"^sed: unknown key; did you mean seed\?"),
        ({LR: [0.1]}, {"overrides": ["experiment=smok"]}, "experiment=smok: no such file"),
        ({LR: [0.1, -0.1]}, {}, rf"{LR} = -0\.1: .*greater than"),
        ({LR: [0.1, "fast"]}, {}, rf"{LR} = 'fast'"),
        ({"experiment": ["smoke", "smokes"]}, {}, "experiment=smokes: no such file"),
        ({"tasks.translate.train.trainer.epochs": [1]}, {}, "unknown key"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(
    root: Path, space: dict[str, list[Any]], changed: dict[str, Any], message: str
) -> None:
    dimensions = {key: {"choice": values} for key, values in space.items()}
    with pytest.raises(ConfigError, match=message) as caught:
        check_sweep(root, config(dimensions, **changed))
    assert "\n" not in str(caught.value)


def test_both_ends_of_a_range_are_checked(root: Path) -> None:
    key = "align.image.train.task.text_dropout"
    check_sweep(root, config({key: {"low": 0.0, "high": 0.5}}))
    with pytest.raises(ConfigError, match=rf"{key} = 1\.5"):
        check_sweep(root, config({key: {"low": 0.0, "high": 1.5}}))


def test_keys_of_a_chosen_recipe_are_known(root: Path) -> None:
    space = {"tasks.translate.train.trainer.epochs": {"choice": [1, 2]}}
    check_sweep(root, config(space, overrides=["experiment=multi30k"]))


def test_a_setting_may_be_added(root: Path) -> None:
    key = f"+{LR.removesuffix('.lr')}.parts.decoder"
    check_sweep(root, config({key: {"choice": [{"lr": 0.5}]}}))
    with pytest.raises(ConfigError, match=r"parts\.decoder\.rl: unknown key"):
        check_sweep(root, config({key: {"choice": [{"rl": 0.5}]}}))


def test_an_endless_grid_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=rf"space\.{LR}: a grid needs"):
        check_sweep(root, config({LR: {"low": 0.1, "high": 0.2}}, sampler="grid"))


def test_a_run_is_named_by_what_makes_it(root: Path) -> None:
    space = {LR: {"choice": [0.1, 0.2]}}

    def runs(baseline: str = "a" * 40, **changed: Any) -> dict[str, str]:
        return Search(root, "s", config(space, **changed), baseline).runs((f"{LR}=0.1",))

    assert runs() == runs(points=9, jobs=3, direction="minimize")
    names = [runs(), runs(baseline="b" * 40), runs(targets=["fit"]), runs(overrides=["seed=1"])]
    assert len({name[""] for name in names}) == 4
    seeds = runs(seeds=[1, 2])
    assert list(seeds) == ["1", "2"]
    assert len(set(seeds.values())) == 2
    # One of several seeds is the same run as that seed fixed for all points would be named.
    assert runs(seeds=[2])["2"] == seeds["2"]
