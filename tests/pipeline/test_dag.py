"""dvc.yaml tells the truth: about code, parameters and places."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline import paths
from plumbline.report.history import CURVES
from tools import code_deps

ROOT = Path(__file__).resolve().parents[2]
DAG: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
KEYED = sorted(name for name, stage in DAG.items() if "foreach" in stage)
ALL = sorted(DAG)


def entry(name: str) -> dict[str, Any]:
    return code_deps.entry(DAG[name])


@pytest.mark.parametrize("name", ALL)
def test_deps_are_the_code_that_the_stage_imports_and_no_other(name: str) -> None:
    declared = {dep for dep in entry(name)["deps"] if code_deps.is_code(dep)}
    assert declared == set(code_deps.expected(name)), "make deps puts it right"


@pytest.mark.parametrize("name", ALL)
def test_versions_are_those_of_the_libraries_that_the_stage_imports(name: str) -> None:
    declared = {param for param in entry(name).get("params", []) if code_deps.is_version(param)}
    assert declared == set(code_deps.expected_versions(name)), "make deps puts it right"


@pytest.mark.parametrize("name", sorted(set(ALL) - {"check_params"}))
def test_params_are_what_the_stage_reads(name: str) -> None:
    spec = importlib.import_module(f"stages.{name}").SPEC
    declared = {p for p in entry(name)["params"] if not p.startswith("versions.")}
    assert declared == set(spec.sections("${key}").values())
    assert spec.name == name
    assert DAG[name].get("foreach") == (f"${{{spec.group}}}" if spec.group else None)


PLACES = {
    "check_params": {paths.CHECK_PARAMS},
    "prepare": {paths.raw("K")},
    "validate": {paths.clean("K"), paths.quarantine("K")},
    "detect_shapes": {paths.shapes("K")},
    "tokenize_text": {paths.cache("K")},
    "pretrain_alignment": {paths.aligned("K")},
    "evaluate_alignment": {
        paths.alignment_evaluation("K"),
        paths.alignment_metrics("K"),
        *(paths.alignment_curves("K") / f"{name}.csv" for name in CURVES),
    },
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
    outs = {Path(place.replace("${key}", "K")) for place in places}
    # A plot may be a file within an out.
    outs = {o for o in outs if not any(o != other and o.is_relative_to(other) for other in outs)}
    assert outs == PLACES[name]


def test_only_metrics_stay_out_of_the_cache() -> None:
    for name in ALL:
        uncached = [o for o in entry(name)["outs"] if isinstance(o, dict)]
        assert uncached == []
        for metric in entry(name).get("metrics", []):
            assert next(iter(metric)).startswith("metrics/")


def test_every_param_of_versions_is_known() -> None:
    from plumbline.params import PACKAGES

    named = {p for s in ALL for p in entry(s).get("params", []) if p.startswith("versions.")}
    assert named <= {f"versions.{package}" for package in PACKAGES}
    assert {f"versions.{package}" for package in PACKAGES} == named


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
    from stages.check_params import specs

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
