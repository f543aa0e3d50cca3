"""Settings are checked in full, and whatever is wrong is one line that helps."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from plumbline.config import Config, check_config, compose_yaml, fix_threads
from plumbline.errors import ConfigError
from plumbline.registry import OneOf, Registry


class OptimSettings(Config):
    lr: float = Field(1e-3, gt=0)
    name: Literal["adamw", "sgd"] = "adamw"
    betas: list[float] = Field([0.9, 0.98], min_length=2, max_length=2)


class SmallModel(Config):
    name: Literal["small"]
    width: int = 8


class LargeModel(Config):
    name: Literal["large"]
    layers: int
    stem: list[SmallModel] = Field(default_factory=list)


class TrainSettings(Config):
    optim: OptimSettings = Field(default_factory=OptimSettings)
    model: Annotated[SmallModel | LargeModel, Field(discriminator="name")]
    parts: dict[str, OptimSettings] = Field(default_factory=dict)
    epochs: int
    limit: int | None = None

    @model_validator(mode="after")
    def _fits(self) -> "TrainSettings":
        if self.limit is not None and self.limit > self.epochs:
            raise ValueError(f"limit {self.limit} is larger than epochs {self.epochs}")
        return self


class StageSettings(Config):
    seed: int
    train: TrainSettings


SECTIONS = {"seed": "seed", "train": "tasks.vqa.train"}

PARAMS = """
seed: 0
tasks:
  vqa:
    data: scenes
    train:
      optim: {lr: 0.01}
      model: {name: large, layers: 2, stem: [{name: small}]}
      epochs: 3
other: {anything: goes}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return tmp_path


def load(
    schema: type[Config],
    sections: Mapping[str, str],
    overrides: Sequence[str] = (),
    *,
    root: Path,
) -> Any:
    return check_config(schema, sections, compose_yaml(root, "params", overrides))


def refusal(root: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(StageSettings, SECTIONS, overrides, root=root)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_sections_become_typed_settings_and_the_rest_is_not_read(root: Path) -> None:
    settings = load(StageSettings, SECTIONS, root=root)
    assert settings.train.optim.lr == 0.01
    assert isinstance(settings.train.model, LargeModel)
    assert settings.train.model.stem == [SmallModel(name="small")]


def test_overrides_win(root: Path) -> None:
    overrides = ["seed=7", "tasks.vqa.train.optim.lr=1e-4", "tasks.vqa.train.model.layers=5"]
    settings = load(StageSettings, SECTIONS, overrides, root=root)
    assert (settings.seed, settings.train.optim.lr) == (7, 1e-4)
    assert settings.train.model == LargeModel(
        name="large", layers=5, stem=[SmallModel(name="small")]
    )


def test_settings_do_not_change(root: Path) -> None:
    settings = load(StageSettings, SECTIONS, root=root)
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "+tasks.vqa.train.epoch=1",
            "tasks.vqa.train.epoch: unknown key; did you mean epochs?",
        ),
        (
            "+tasks.vqa.train.optim.wieght=1",
            "tasks.vqa.train.optim.wieght: unknown key",
        ),
        ("+tasks.vqa.train.optim.lrr=1", "optim.lrr: unknown key; did you mean lr?"),
        (
            "+tasks.vqa.train.parts.projector.beta=[0.9]",
            "tasks.vqa.train.parts.projector.beta: unknown key; did you mean betas?",
        ),
        ("seed=nought", "seed = 'nought': input should be a valid integer"),
        ("seed=1.5", "seed = 1.5: input should be a valid integer"),
        ("seed=true", "seed = True: input should be a valid integer"),
        ("seed=null", "seed = None: input should be a valid integer"),
        (
            "tasks.vqa.train.optim.lr=0",
            "tasks.vqa.train.optim.lr = 0: input should be greater than 0",
        ),
        (
            "tasks.vqa.train.optim.lr='0.1'",
            "tasks.vqa.train.optim.lr = '0.1': input should be a valid number",
        ),
        (
            "+tasks.vqa.train.optim.name=adam",
            "tasks.vqa.train.optim.name = 'adam': input should be 'adamw' or 'sgd'",
        ),
        ("+tasks.vqa.train.optim.betas=[0.9]", "tasks.vqa.train.optim.betas: list should have"),
        ("~tasks.vqa.train.epochs", "tasks.vqa.train.epochs: missing; it has no default"),
        (
            "+tasks.vqa.train.limit=9",
            "tasks.vqa.train: limit 9 is larger than epochs 3",
        ),
        (
            "tasks.vqa.train.model.name=medium",
            "tasks.vqa.train.model.name = 'medium': unknown (there is small, large)",
        ),
        (
            "tasks.vqa.train.model.name=larger",
            "tasks.vqa.train.model.name = 'larger': unknown; did you mean large?",
        ),
        (
            "~tasks.vqa.train.model.name",
            "tasks.vqa.train.model.name: missing; one of small, large",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_with_key_value_and_rule(
    root: Path, override: str, expected: str
) -> None:
    assert expected in refusal(root, override)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("+tasks.vqa.train.model.layer=1", "unknown key; did you mean layers?"),
        ("tasks.vqa.train.model.stem=[{name: small, wdth: 4}]", "unknown key; did you mean width?"),
    ],
)
def test_within_a_union_the_nearest_name_is_that_of_a_member(
    root: Path, override: str, expected: str
) -> None:
    assert expected in refusal(root, override)


def test_the_key_of_a_setting_within_a_union_is_the_one_that_the_user_writes(root: Path) -> None:
    text = refusal(root, "tasks.vqa.train.model.layers=many")
    assert text.startswith("tasks.vqa.train.model.layers = 'many'")


class Plugin(Config):
    """What all members of a table have in common."""


PLUGINS: Registry[type[Plugin]] = Registry("plugin")
PluginChoice = Annotated[Plugin, OneOf(PLUGINS, "kind")]


class Inner(Plugin):
    kind: Literal["inner"]
    size: int = Field(1, gt=0)


PLUGINS.register("inner", Inner)


class Nested(Plugin):
    kind: Literal["nested"]
    named: dict[str, PluginChoice] = Field(default_factory=dict)
    listed: list[PluginChoice] = Field(default_factory=list)
    maybe: PluginChoice | None = None
    limit: int | Literal["auto"] = "auto"


class Outer(Plugin):
    kind: Literal["outer"]
    inside: Nested


PLUGINS.register("outer", Outer)


class PluginSettings(Config):
    plugin: PluginChoice
    more: Nested


def plugin_refusal(plugin: Any, more: Any) -> str:
    params = {"p": plugin, "more": {"kind": "nested", **more}}
    with pytest.raises(ConfigError) as caught:
        check_config(PluginSettings, {"plugin": "p", "more": "more"}, params)
    return str(caught.value)


INNER = {"kind": "inner"}


@pytest.mark.parametrize(
    ("plugin", "more", "expected"),
    [
        ({"kind": "iner"}, {}, "p.kind = 'iner': unknown; did you mean inner? (there is inner,"),
        ({"kind": 3}, {}, "p.kind = '3': unknown (there is inner, outer)"),
        ({"size": 3}, {}, "p.kind: missing; one of inner, outer"),
        ("inner", {}, "p = 'inner': input should be a valid dictionary"),
        ({**INNER, "sise": 3}, {}, "p.sise: unknown key; did you mean size?"),
        ({**INNER, "size": 0}, {}, "p.size = 0: input should be greater than 0"),
        ({"kind": "outer"}, {}, "p.inside: missing; it has no default"),
        (
            {"kind": "outer", "inside": {"kind": "nested", "listed": [{**INNER, "siz": 1}]}},
            {},
            "p.inside.listed.0.siz: unknown key; did you mean size?",
        ),
        (INNER, {"named": {"x": {**INNER, "size": "a"}}}, "more.named.x.size = 'a': input"),
        (INNER, {"named": {"x": {"kind": "x"}}}, "more.named.x.kind = 'x': unknown"),
        (INNER, {"listed": [INNER, {**INNER, "s": 1}]}, "more.listed.1.s: unknown key"),
        (INNER, {"maybe": {**INNER, "sizes": 1}}, "more.maybe.sizes: unknown key; did you mean"),
        (INNER, {"limit": 1.5}, "more.limit = 1.5: input should be a valid integer (and 1 more)"),
    ],
)
def test_a_setting_that_is_chosen_from_a_table_is_refused_by_its_full_key(
    plugin: Any, more: Any, expected: str
) -> None:
    assert plugin_refusal(plugin, more).startswith(expected)


def test_several_faults_are_counted(root: Path) -> None:
    assert refusal(root, "seed=x", "tasks.vqa.train.epochs=y").endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tasks.vqa.train.epoch=1", "tasks.vqa.train.epoch: unknown key; did you mean"),
        ("tasks.vqa.train.optim.ls=1", "did you mean tasks.vqa.train.optim.lr?"),
        ("sed=1", "sed: unknown key; did you mean seed?"),
        ("no-equals-sign", "no-equals-sign"),
        ("seed=[1", "seed=[1"),
        ("+seed=1", "seed"),
        ("~nothing", "nothing"),
    ],
)
def test_an_override_that_does_not_fit_is_one_line(
    root: Path, override: str, expected: str
) -> None:
    assert expected in refusal(root, override)


def test_a_setting_that_params_leaves_at_its_default_is_told_how_to_be_written(root: Path) -> None:
    assert "+tasks.vqa.train.limit=" in refusal(root, "tasks.vqa.train.limit=2")


def test_a_missing_params_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params\.yaml: missing; run plumbline params"):
        load(StageSettings, SECTIONS, root=tmp_path)


@pytest.mark.parametrize("text", ["seed: [1", "seed: ${nowhere}", "\tseed: 1", "a: 1\na: 2"])
def test_a_damaged_params_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        compose_yaml(tmp_path, "params", [])
    assert "\n" not in str(caught.value)


def test_a_section_that_is_not_there_names_what_is(root: Path) -> None:
    sections = {"seed": "seed", "train": "tasks.vq.train"}
    with pytest.raises(
        ConfigError, match=r"tasks\.vq\.train: not there; tasks holds vqa; .* vqa\?"
    ):
        load(StageSettings, sections, root=root)
    with pytest.raises(
        ConfigError, match=r"zzz: not there; params\.yaml holds seed, tasks, other$"
    ):
        load(StageSettings, {"seed": "zzz"}, root=root)
    with pytest.raises(ConfigError, match=r"seed\.deep: not there; seed holds nothing"):
        load(StageSettings, {"seed": "seed.deep"}, root=root)


def test_interpolations_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 3\ncopy: ${seed}\n", encoding="utf-8")
    assert compose_yaml(tmp_path, "params", ["seed=4"]) == {"seed": 4, "copy": 4}


def test_an_already_composed_mapping_is_checked_alike() -> None:
    params: dict[str, Any] = {"seed": 1, "m": {"model": {"name": "small"}, "epochs": 1}}
    settings = check_config(StageSettings, {"seed": "seed", "train": "m"}, params)
    assert settings.train.model == SmallModel(name="small")
    with pytest.raises(
        ConfigError, match=r"^m\.epochs = '-': input should be a valid integer"
    ) as e:
        check_config(
            StageSettings,
            {"seed": "seed", "train": "m"},
            {**params, "m": {**params["m"], "epochs": "-"}},
        )
    assert "\n" not in str(e.value)


def test_threads_are_fixed_for_libraries_that_load_later(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "9")
    fix_threads(3)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),  # which the count would take back
    ],
)
def test_threads_that_wait_soon_sleep_unless_the_environment_says_how(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    monkeypatch.setattr(os, "environ", given)
    fix_threads(2)
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_a_group_set_to_null_is_one_line_with_the_remedy() -> None:
    conf = Path(__file__).resolve().parents[1] / "conf"
    with pytest.raises(ConfigError, match=r"experiment=null: .*leave a group out with ~experiment"):
        compose_yaml(conf, "config", ["experiment=null"])
