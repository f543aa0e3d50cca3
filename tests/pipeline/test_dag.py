"""dvc.yaml tells the truth: about code, parameters and places."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline import paths
from plumbline.code_digest import CodeTree
from plumbline.params import PACKAGES
from plumbline.report.history import CURVES
from plumbline.stage import StageSpec
from plumbline.stages.digest_code import codes, describe
from plumbline.stages.specs import STAGES, specs

ROOT = Path(__file__).resolve().parents[2]
DAG: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
ALL = sorted(DAG)


def entry(name: str) -> dict[str, Any]:
    """What a stage is made of, whether it stands once or for each key of a mapping."""
    body: dict[str, Any] = DAG[name].get("do", DAG[name])
    return body


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_a_stage_depends_on_its_code_and_its_settings(spec: StageSpec[Any]) -> None:
    kind = "${item.kind}" if spec.schema_of_kind else ""
    key = "${key}" if spec.group else ""
    small = [paths.code(spec.name, kind), paths.settings(spec.name, key)]
    assert entry(spec.name)["deps"][:2] == [place.as_posix() for place in small]
    assert DAG[spec.name].get("foreach") == (f"${{{spec.group}}}" if spec.group else None)


def test_stages_are_those_with_settings_and_the_two_that_write_what_they_depend_on() -> None:
    assert list(DAG) == ["digest_code", "check_params", *STAGES]
    assert set(entry("digest_code")["deps"]) == {"src/plumbline", "stages", "plugins"}


PLACES = {
    "digest_code": {paths.CODE},
    "check_params": {paths.SETTINGS},
    "list_objects": {paths.objects("K")},
    "resolve_weights": {paths.weights("S") / "K.json", paths.tokenizers("S") / "K.json"},
    "prepare": {paths.raw("K")},
    "validate": {paths.clean("K"), paths.quarantine("K"), paths.data_metrics("K")},
    "detect_shapes": {paths.shapes("K"), paths.distributions("K")},
    "tokenize_text": {paths.cache("K"), paths.cache_distributions("K")},
    "pretrain_alignment": {paths.aligned("K")},
    "evaluate_alignment": {
        paths.alignment_evaluation("K"),
        paths.alignment_metrics("K"),
        *(paths.alignment_curves("K") / f"{name}.csv" for name in CURVES),
    },
    "export_alignment": {paths.alignment_export("K")},
    "finetune": {paths.finetuned("K")},
    "evaluate_model": {
        paths.task_evaluation("K"),
        paths.task_metrics("K"),
        *(paths.task_curves("K") / f"{name}.csv" for name in CURVES),
    },
    "export_model": {paths.export("K")},
    "report": {paths.REPORT},
}


@pytest.mark.parametrize("name", ALL)
def test_outs_are_where_the_stage_writes(name: str) -> None:
    body = entry(name)
    declared = [*body["outs"], *body.get("metrics", []), *body.get("plots", [])]
    places = {next(iter(o)) if isinstance(o, dict) else o for o in declared}
    outs = {Path(place.replace("${key}", "K").replace("${item.set}", "S")) for place in places}
    # A plot may be a file within an out.
    outs = {o for o in outs if not any(o != other and o.is_relative_to(other) for other in outs)}
    assert outs == PLACES[name]


def test_only_metrics_stay_out_of_the_cache() -> None:
    for name in ALL:
        uncached = [o for o in entry(name)["outs"] if isinstance(o, dict)]
        assert uncached == []
        for metric in entry(name).get("metrics", []):
            assert next(iter(metric)).startswith("metrics/")


def test_every_library_with_a_version_is_imported_by_some_stage() -> None:
    named = {name for _, code in codes(CodeTree(ROOT)) for name in describe(code)["libraries"]}
    assert named == set(PACKAGES)


def test_no_value_of_a_user_reaches_a_shell_but_the_key() -> None:
    for name in ALL:
        assert re.fullmatch(r"python -m stages\.\w+( \$\{key\})?", entry(name)["cmd"])


def unlisted(settings: Any, written: Any, path: str) -> list[str]:
    if not isinstance(settings, dict):
        return []
    if not isinstance(written, dict):
        return [path]
    return [
        name
        for key, value in settings.items()
        for name in (
            unlisted(value, written[key], f"{path}.{key}") if key in written else [f"{path}.{key}"]
        )
    ]


def test_params_hold_every_setting_of_the_default_selection() -> None:
    """What a stage knows can be overridden by name; unknown names are refused anyway."""
    from plumbline.config import check_config
    from plumbline.params import read_params

    params = read_params(ROOT)
    for spec in specs():
        for key in params[spec.group] if spec.group else []:
            sections = spec.sections(key)
            schema = spec.schema_for(key, params)
            config = check_config(schema, sections, params).model_dump(mode="json")
            for name, dotted in sections.items():
                written: Any = params
                for part in dotted.split("."):
                    written = written[part]
                assert unlisted(config[name], written, dotted) == []
