"""The one door from params.yaml to typed settings.

Hydra composes params.yaml with the overrides of the command line; pydantic checks types, ranges
and contradictions. Whatever is wrong becomes one `ConfigError` line that names the key, the value,
the rule and the nearest valid name (`docs/adr/0001-pydantic-checks-settings.md`).
"""

import difflib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from yaml import YAMLError

from plumbline.errors import ConfigError
from plumbline.registry import OneOf


class Config(BaseModel):
    """Base of every group of settings: immutable, typed without conversions, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


ConfigT = TypeVar("ConfigT", bound=Config)


def compose_yaml(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose `folder/name.yaml` as Hydra does and resolve its interpolations.

    Raises:
        ConfigError: the file is missing or damaged, or an override does not fit it.
    """
    if not (folder / f"{name}.yaml").is_file():
        raise ConfigError(f"{folder / name}.yaml: missing; run make params")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            node = compose(name, overrides=list(overrides))
        OmegaConf.resolve(node)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(_describe_composition(error, folder, name)) from None
    finally:
        logging.getLogger("hydra").setLevel(logging.WARNING)
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    return cast(dict[str, Any], plain)


def _describe_composition(error: Exception, folder: Path, name: str) -> str:
    cause = error.__cause__ or error
    text = " ".join(str(error).split())
    detail = " ".join(str(cause).split())
    full_key = getattr(cause, "full_key", None)
    if full_key and "is not in struct" in detail:
        node = OmegaConf.load(folder / f"{name}.yaml")
        assert isinstance(node, DictConfig)
        near = _suggest(str(full_key), _all_keys(node))
        return (
            f"{full_key}: unknown key{near} (write +{full_key}=... for a setting that {name}.yaml "
            "leaves at its default)"
        )
    if override := getattr(error, "override", None):
        text = f"{override}: {text}"
    return text if detail in text else f"{text}: {detail}"


def _all_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        path = f"{prefix}{key}"
        yield path
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            yield from _all_keys(child, f"{path}.")


def _suggest(name: str, valid: Iterator[str] | Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def load_config(
    schema: type[ConfigT],
    sections: Mapping[str, str],
    overrides: Sequence[str] = (),
    *,
    root: Path | None = None,
) -> ConfigT:
    """Read the sections of params.yaml that a stage declares, and nothing else of it.

    Args:
        schema: what the stage wants, one field per entry of `sections`.
        sections: field name -> dotted key in params.yaml.
        overrides: Hydra overrides from the command line, e.g. `tasks.vqa.train.optim.lr=1e-3`.
        root: the folder with params.yaml; the working folder when None.

    Raises:
        ConfigError: one line naming the key, its value, the rule and the nearest valid name.
    """
    params = compose_yaml(Path.cwd() if root is None else root, "params", overrides)
    return check_config(schema, sections, params)


def check_config(
    schema: type[ConfigT], sections: Mapping[str, str], params: Mapping[str, Any]
) -> ConfigT:
    """Validate sections of an already composed mapping; arguments and errors as `load_config`."""
    values = {field: _pick(params, key) for field, key in sections.items()}
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_describe_validation(schema, sections, error)) from None


def _pick(params: Mapping[str, Any], dotted: str) -> Any:
    value: Any = params
    walked: list[str] = []
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            where = ".".join(walked) or "params.yaml"
            known = [str(key) for key in value] if isinstance(value, Mapping) else []
            there = f"{where} holds {', '.join(known) or 'nothing'}"
            raise ConfigError(f"{dotted}: not there; {there}{_suggest(part, known)}")
        value = value[part]
        walked.append(part)
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
        return f"{path}: unknown key{_suggest(name, known)}{more}"
    if first["type"] == "missing":
        return f"{path}: missing; it has no default{more}"
    if first["type"].startswith("union_tag_"):
        tag = first["ctx"]["discriminator"].strip("'")
        known = list(_tagged(_follow(schema, first["loc"])[1], tag))
        if first["type"] == "union_tag_not_found":
            return f"{path}.{tag}: missing; one of {', '.join(known)}{more}"
        value = first["ctx"]["tag"]
        near = _suggest(value, known)
        return f"{path}.{tag} = {value!r}: unknown{near} (there is {', '.join(known)}){more}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = first["input"]
    shown = "" if isinstance(value, dict | list) and value else f" = {value!r}"
    return f"{path}{shown}: {message}{more}"


_Location = Sequence[int | str]
_Models = list[type[Config]]


def _follow(annotation: Any, path: _Location) -> tuple[list[int | str], _Models]:
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
    annotation: Any, marks: Sequence[Any], path: _Location
) -> tuple[list[int | str], _Models]:
    tagged: dict[str, type[Config]] | None = None
    for mark in marks:
        if isinstance(mark, OneOf):
            entries = mark.registry.entries().items()
            tagged = {name: entry for name, entry in entries if issubclass(entry, annotation)}
        elif isinstance(mark, FieldInfo) and isinstance(mark.discriminator, str):
            tagged = _tagged(_follow(annotation, [])[1], mark.discriminator)
    if tagged is None:
        return _follow(annotation, path)
    if not path:
        return [], list(tagged.values())
    head, *rest = path
    return _follow(tagged[str(head)], rest) if head in tagged else (list(path), [])


def _follow_any(annotations: Sequence[Any], path: _Location) -> tuple[list[int | str], _Models]:
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


def fix_threads(threads: int) -> None:
    """Fix the number of compute threads before torch is imported: float sums depend on it."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
