"""The one door from params.yaml to typed settings.

Hydra composes params.yaml with the overrides of the command line; pydantic checks types, ranges
and contradictions. Whatever is wrong becomes one `ConfigError` line that names the key, the value,
the rule and the nearest valid name (`docs/adr/0001-pydantic-checks-settings.md`).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from plumbline.errors import ConfigError
from plumbline.names import suggest
from plumbline.registry import OneOf
from plumbline.text import without_credentials


class Config(BaseModel):
    """Base of every group of settings: immutable, typed without conversions, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


def compose_yaml(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, object]:
    """Compose `folder/name.yaml` as Hydra does and resolve its interpolations.

    Raises:
        ConfigError: the file is missing or damaged, an override does not fit it, or a key cannot
            be the name of a stage.
    """
    from plumbline.composition import compose_file  # with Hydra, which most commands do not need

    return compose_file(folder, name, overrides)


def check_config(
    schema: type[ConfigT], sections: Mapping[str, str], params: Mapping[str, object]
) -> ConfigT:
    """Take the sections of params.yaml that a stage declares, and nothing else of it.

    Args:
        schema: what the stage wants, one field per entry of `sections`.
        sections: field name -> dotted key in params.yaml.
        params: params.yaml, composed.

    Raises:
        ConfigError: one line naming the key, its value, the rule and the nearest valid name.
    """
    values = {field: pick(params, key) for field, key in sections.items()}
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_describe_validation(schema, sections, error)) from None


def pick(params: Mapping[str, object], dotted: str) -> object:
    """The value at a dotted key.

    Raises:
        ConfigError: it is not there; the text gives the nearest one.
    """
    value: object = params
    walked: list[str] = []
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            where = ".".join(walked) or "params.yaml"
            known = [str(key) for key in value] if isinstance(value, Mapping) else []
            there = f"{where} holds {', '.join(known) or 'nothing'}"
            raise ConfigError(f"{dotted}: not there; {there}{suggest(part, known)}")
        value = value[part]
        walked.append(part)
    return value


def without_folders(value: object) -> object:
    """Cut absolute paths in settings to their last part: an output tells nothing of its machine."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _describe_validation(
    schema: type[Config], sections: Mapping[str, str], error: ValidationError
) -> str:
    first, *rest = error.errors(include_url=False)
    field, *inner = first["loc"]
    written, _ = _follow(schema, first["loc"])
    path = ".".join([sections.get(str(field), str(field)), *(str(p) for p in written[1:])])
    more = f" (and {len(rest)} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        _, models = _follow(schema, [field, *inner[:-1]] if inner else [])
        known = [name for model in models for name in model.model_fields]
        name = str(inner[-1]) if inner else str(field)
        return f"{path}: unknown key{suggest(name, known)}{more}"
    if first["type"] == "missing":
        return f"{path}: missing; it has no default{more}"
    if first["type"].startswith("union_tag_"):
        tag = first["ctx"]["discriminator"].strip("'")
        known = list(_tagged(_follow(schema, first["loc"])[1], tag))
        if first["type"] == "union_tag_not_found":
            return f"{path}.{tag}: missing; one of {', '.join(known)}{more}"
        value = first["ctx"]["tag"]
        near = suggest(value, known)
        return f"{path}.{tag} = {value!r}: unknown{near} (there is {', '.join(known)}){more}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = first["input"]
    shown = "" if isinstance(value, dict | list) and value else f" = {value!r}"
    return f"{path}{without_credentials(shown)}: {message}{more}"


_Location = Sequence[int | str]
_Models = list[type[Config]]


def _follow(annotation: object, path: _Location) -> tuple[list[int | str], _Models]:
    """Follow pydantic's location of an error through fields, lists, mappings and unions.

    Returns:
        The location as the user writes it, without the tags that pydantic puts in for members of
        unions, and the settings classes that may stand at its end.
    """
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return _follow_field(annotation, path) if path else ([], [annotation])
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _follow_marked(arguments[0], arguments[1:], path)
    if origin in (Union, UnionType):
        members = [member for member in arguments if member is not NoneType]
        if len(members) == 1 or not path:
            return _follow_any(members, path)
        named = [m for m in members if getattr(m, "__name__", "") == path[0]]
        return _follow_any(named, path[1:])
    if not path:
        return _follow_any(arguments, path)
    # The index of a list or the key of a mapping: one level of the location.
    head, *rest = path
    written, models = _follow_any(arguments[-1:], rest)
    return [head, *written], models


def _follow_field(model: type[Config], path: _Location) -> tuple[list[int | str], _Models]:
    head, *rest = path
    field = model.model_fields.get(str(head))
    if field is None:
        return list(path), []
    marks = [*field.metadata, field] if field.discriminator else field.metadata
    written, models = _follow_marked(field.annotation, marks, rest)
    return [head, *written], models


def _follow_marked(
    annotation: object, marks: Sequence[object], path: _Location
) -> tuple[list[int | str], _Models]:
    tagged: dict[str, type[Config]] | None = None
    for mark in marks:
        if isinstance(mark, OneOf):
            entries = mark.registry.entries().items()
            tagged = {
                name: entry
                for name, entry in entries
                if isinstance(annotation, type)
                and issubclass(entry, annotation)
                and issubclass(entry, Config)
            }
        elif isinstance(mark, FieldInfo) and isinstance(mark.discriminator, str):
            tagged = _tagged(_follow(annotation, [])[1], mark.discriminator)
    if tagged is None:
        return _follow(annotation, path)
    if not path:
        return [], list(tagged.values())
    head, *rest = path
    return _follow(tagged[str(head)], rest) if head in tagged else (list(path), [])


def _follow_any(annotations: Sequence[object], path: _Location) -> tuple[list[int | str], _Models]:
    found = [_follow(annotation, path) for annotation in annotations]
    written = min((written for written, _ in found), key=len, default=list(path))
    return written, [model for _, models in found for model in models]


def _tagged(models: Sequence[type[Config]], tag: str) -> dict[str, type[Config]]:
    """Settings classes by the names that their field `tag` allows."""
    return {
        str(name): model
        for model in models
        if tag in model.model_fields
        for name in get_args(model.model_fields[tag].annotation)
    }


_SPINS = "1000"
"""Looks that a compute thread takes for its next work before it sleeps: some 50 microseconds.

libgomp's own 300,000 are milliseconds, in which a thread beside other jobs takes the very core that
the one it waits for needs. `python -m bench.spin` measures it; the bits are the same.
"""


def fix_threads(threads: int) -> None:
    """Fix the compute threads before torch is imported: float sums depend on their number."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
