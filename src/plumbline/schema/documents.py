"""The schemas of params.yaml and of the files below conf/: `plumbline params` writes them.

Which settings there are is asked of the stages and of the kinds of work that are registered, so
those of a project's plugins are among them.
"""

import json
from pathlib import Path

from pydantic import BaseModel

from plumbline.config import Config
from plumbline.errors import ConfigError
from plumbline.files import atomic_write
from plumbline.kind import KINDS, known_kinds
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.encoder_config import AnyEncoder
from plumbline.names import GROUPS
from plumbline.schema.describe import Describer, Schema
from plumbline.stage import StageSpec
from plumbline.stages.specs import specs
from plumbline.training.config import OptimConfig, TrainerConfig
from plumbline.validation.settings import ValidationConfig

FOLDER = "schema"
"""Where a project has them, beside conf/."""

_DRAFT = {"$schema": "http://json-schema.org/draft-07/schema#"}
_KEY = "KEY"
_VERSIONS: Schema = {
    "type": "object",
    "description": "Libraries that shape results, by version; `plumbline params` writes it.",
    "additionalProperties": {"type": "string"},
    "default": {},
}
_DEFAULTS: Schema = {
    "type": "array",
    "description": "Files of conf/ that this one is laid over, or that it selects: see Hydra.",
}


def write_schemas(root: Path) -> list[str]:
    """Write all schemas into the folder `schema` of a project.

    Returns:
        The paths of those that have changed.

    Raises:
        OutputError: the disk is full, or may not be written.
    """
    changed = []
    for name, schema in schemas().items():
        file = root / FOLDER / name
        text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, text)
            changed.append(f"{FOLDER}/{name}")
    return changed


def schemas() -> dict[str, Schema]:
    """Name of a file -> its content: `params.json`, and for each folder of conf/ one of its name.

    The latter refer to `conf.json`, which holds what they share.
    """
    whole, conf = Describer(partial=False), Describer(partial=True)
    params = root_schema(whole)
    files = {**_sections(conf), **_entries(conf), "experiment": _file(conf, root_schema(conf))}
    named = {f"conf_{name}": schema for name, schema in files.items()}
    return {
        "params.json": {**_DRAFT, **params, "definitions": whole.definitions},
        "conf.json": {**_DRAFT, "definitions": {**named, **conf.definitions}},
        **{
            f"{name}.json": {**_DRAFT, "$ref": f"conf.json#/definitions/conf_{name}"}
            for name in files
        },
    }


def root_schema(describer: Describer) -> Schema:
    """All of params.yaml."""
    groups = {
        group: {**describer.mapping(entry), "description": text, "default": {}}
        for group, (entry, text) in _groups(describer).items()
    }
    settings = {
        place: describer.setting(_schema(spec, next(iter(KINDS))), field)
        for spec in specs()
        for field, place in spec.sections(_KEY).items()
        if "." not in place and place not in groups
    }
    return describer.of_settings({"versions": _VERSIONS, **groups, **settings})


def _groups(describer: Describer) -> dict[str, tuple[Schema, str]]:
    """Mapping of params.yaml -> the schema of its entries, and what they are."""
    kinds = {}
    for name in KINDS:
        entry = _entry(describer, "tasks", name)
        entry["properties"]["kind"] = {"const": name, "description": "The kind of work."}
        kinds[name] = describer.define(f"task_{name}", entry)
    data, align = _entry(describer, "datasets"), _entry(describer, "align")
    whole = {
        "objects": (_entry(describer, "objects"), "What lies in object stores."),
        "weights": (_entry(describer, "weights"), "Checkpoints that trainings start from."),
        "datasets": (describer.define("dataset", data), "Where rows come from, how they are read."),
        "align": (
            describer.define("alignment", align),
            "Encoders that learn to meet.",
        ),
        "tasks": (describer.choice("task", "kind", kinds), "What is trained, on what data."),
    }
    return {group: whole[group] for group in GROUPS}


def _entry(describer: Describer, group: str, kind: str = "") -> Schema:
    """An entry of a mapping: the sections of all stages that run for it."""
    found: dict[str, Schema] = {}
    for spec in (spec for spec in specs() if spec.group == group):
        try:
            schema = _schema(spec, kind)
        except ConfigError:
            continue  # a kind that is not exported
        for field, place in {**spec.sections(_KEY), **spec.unkeyed(_KEY)}.items():
            if place == f"{group}.{_KEY}":
                return describer.setting(schema, field)
            section = place.removeprefix(f"{group}.{_KEY}.")
            if section.partition(".")[0] in found:
                continue  # what a stage before it has, whole, is described there
            if section != place:
                found[section] = describer.setting(schema, field)
    return describer.of_settings(found)


def _schema(spec: StageSpec[Config], kind: str) -> type[BaseModel]:
    return spec.schema_of_kind(kind) if spec.schema_of_kind else spec.schema


def _entries(describer: Describer) -> dict[str, Schema]:
    """The folders of conf/ whose files hold entries by name."""
    return {
        group: {**describer.mapping(entry), "properties": {"defaults": _DEFAULTS}}
        for group, (entry, _) in _groups(describer).items()
        if group not in ("objects", "weights")
    }


def _sections(describer: Describer) -> dict[str, Schema]:
    """The folders of conf/ whose files hold one section of an entry."""
    kinds = known_kinds().values()
    exports = {kind.settings.export for kind in kinds if kind.settings.export}
    by_name = sorted(exports, key=lambda cls: cls.__name__)
    settings: dict[str, Schema] = {
        "validate": describer.group(ValidationConfig),
        "loader": describer.group(LoaderConfig),
        "trainer": describer.group(TrainerConfig),
        "optim": describer.group(OptimConfig),
        "model": describer.value(AnyEncoder)["else"],
        "export": {"anyOf": [describer.group(cls) for cls in by_name]},
    }
    return {name: _file(describer, schema) for name, schema in settings.items()}


def _file(describer: Describer, schema: Schema) -> Schema:
    """A group that stands in a file of its own, which may have a defaults list."""
    if "$ref" in schema:
        return _file(describer, describer.definitions[schema["$ref"].rpartition("/")[2]])
    if "additionalProperties" in schema:
        return {**schema, "properties": {"defaults": _DEFAULTS, **schema["properties"]}}
    parts: Schema = {word: schema[word] for word in ("allOf", "anyOf") if word in schema}
    found: Schema = {
        word: [_file(describer, part) for part in inner] for word, inner in parts.items()
    }
    then = {"then": _file(describer, schema["then"])} if "then" in schema else {}
    return {**schema, **found, **then}
