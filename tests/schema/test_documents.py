"""The schemas for editors take what plumbline takes, and say what every setting means."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from jsonschema import Draft7Validator

from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.schema.documents import FOLDER, schemas, write_schemas
from plumbline.sources.base import SOURCES, Source
from plumbline.stages.check_params import check_settings
from tests.schema.validators import SCHEMAS, refusals

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
FILES = sorted(file for file in CONF.rglob("*.yaml") if file.name != "versions.yaml")


class Tape(Source):
    """A tape."""

    source: Literal["tape"]
    reel: int
    """Which one."""


def settings_of(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All settings of a schema, by the definition that they stand in."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from settings_of(inner, f"{path}.{name}")
    for word in ("additionalProperties", "items", "then", "else"):
        if isinstance(schema.get(word), dict):
            yield from settings_of(schema[word], path)
    for word in ("anyOf", "allOf"):
        for inner in schema.get(word, ()):
            yield from settings_of(inner, path)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    Draft7Validator.check_schema(SCHEMAS[name])


def test_every_setting_says_what_it_means() -> None:
    schema = SCHEMAS["params.json"]
    found = dict(settings_of(schema, "params.yaml"))
    for name, definition in schema["definitions"].items():
        found |= settings_of(definition, name)
    assert len(found) > 450
    chosen = {"const"}, {"enum"}  # what a group is chosen by has one value, and no more to say
    silent = [
        place
        for place, inner in found.items()
        if len(inner.get("description", "")) < 4
        and not (set(inner) - {"default"} in chosen and len(inner.get("enum", "a")) == 1)
    ]
    assert silent == [], "write what it means below the field"


@pytest.mark.parametrize("file", [None, *sorted(p.stem for p in CONF.glob("experiment/*.yaml"))])
def test_what_conf_composes_to_is_taken(file: str | None) -> None:
    chosen = [f"experiment={file}"] if file else []
    assert refusals("params.json", compose_yaml(CONF, "config", chosen)) == []


def test_the_committed_params_are_taken() -> None:
    assert refusals("params.json", PARAMS) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_a_file_of_conf_names_its_schema_which_takes_it(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    named = [line for line in text.splitlines()[:2] if line.startswith("# yaml-language-server")]
    place = (file.parent / named[0].partition("$schema=")[2]).resolve()
    assert place.parent == ROOT / FOLDER
    assert place.is_file()
    assert refusals(place.name, yaml.safe_load(text)) == []
    # Hydra reads no package behind the first other line.
    assert ("@package" in text) == text.startswith("# @package _global_\n")


def groups_of(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        yield path
        for key, inner in value.items():
            yield from groups_of(inner, (*path, key))


def leaves_of(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves_of(inner, (*path, key))
    else:
        yield path


def with_value(path: tuple[str, ...], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(PARAMS)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def is_refused(params: dict[str, object]) -> bool:
    try:
        check_settings(params)
    except ConfigError:
        return True
    return False


def test_a_misspelt_setting_is_refused_wherever_the_stages_refuse_it() -> None:
    inner = [path for path in groups_of(PARAMS) if len(path) > 1 and path[0] != "versions"]
    assert len(inner) > 50
    said = {path: is_refused(with_value((*path, "misspelt"), 1)) for path in inner}
    # In the others names are the user's own: of heads, parts, options of a plugin.
    assert sum(said.values()) > 40
    missed = [p for p, no in said.items() if no and not refusals_with((*p, "misspelt"), 1)]
    # Which options a schedule has is a matter of its curve, which the schema does not know.
    assert {path[-2:] for path in missed} == {("schedule", "options")}


def refusals_with(path: tuple[str, ...], value: object) -> list[str]:
    return refusals("params.json", with_value(path, value))


@pytest.mark.parametrize("value", [[[]], -7, "no such", True], ids=repr)
def test_the_schema_refuses_nothing_that_the_stages_take(value: object) -> None:
    leaves = [path for path in leaves_of(PARAMS) if path[0] != "versions"]
    refused = [path for path in leaves if refusals_with(path, value)]
    assert len(refused) > 60
    false_alarms = [path for path in refused if not is_refused(with_value(path, value))]
    assert false_alarms == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tasks": {"mine": {"train": {"trainer": {"epoch": 3}}}}}, "mine"),
        ({"tasks": {"mine": {"kind": "vlm", "train": {"trainer": {"epoch": 3}}}}}, "'epoch' was"),
        ({"datasets": {"mine": {"prepare": {"source": "csv", "filez": "*"}}}}, "'filez' was"),
        ({"tasks": {"mine": {"train": {"trainer": {"epochs": 0}}}}}, "mine"),
        ({"thread": 2}, "'thread' was"),
    ],
)
def test_a_wrong_part_of_an_experiment_is_refused(changed: object, told: str) -> None:
    assert any(told in text for text in refusals("experiment.json", changed))


def test_a_part_of_an_experiment_may_be_laid_over_another_and_refer_to_values() -> None:
    part = {"defaults": ["x"], "tasks": {"mine": {"train": {"trainer": {"epochs": "${threads}"}}}}}
    assert refusals("experiment.json", part) == []
    assert refusals("params.json", {**PARAMS, "threads": "${seed}"}) != []


def test_what_a_plugin_registers_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOURCES, "_entries", {**SOURCES.entries(), "tape": Tape})
    definitions = schemas()["params.json"]["definitions"]
    assert "tape" in definitions["Source"]["properties"]["source"]["enum"]
    assert definitions["Tape"]["properties"]["reel"] == {
        "type": "integer",
        "description": "Which one.",
    }


def test_schemas_are_written_where_they_changed(tmp_path: Path) -> None:
    assert set(write_schemas(tmp_path)) == {f"{FOLDER}/{name}" for name in SCHEMAS}
    assert write_schemas(tmp_path) == []
    (tmp_path / FOLDER / "conf.json").write_text("{}", encoding="utf-8")
    assert write_schemas(tmp_path) == [f"{FOLDER}/conf.json"]
