"""The one door from params.yaml to typed settings.

Hydra composes params.yaml with the overrides of the command line; pydantic checks types, ranges
and contradictions. Whatever is wrong becomes one `ConfigError` line that names the key, the value,
the rule and the nearest valid name (`docs/adr/0001-pydantic-checks-settings.md`).
"""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, TypeVar, Union, get_args, get_origin

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from plumbline.errors import ConfigError
from plumbline.names import check_keys
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
    file = folder / f"{name}.yaml"
    if not file.is_file():
        remedy = "run plumbline params" if name == "params" else "plumbline init makes a project"
        raise ConfigError(f"{file}: missing; {remedy}")
    for part in _files_of(folder, file):
        _check_document(part)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            node = compose(name, overrides=list(overrides))
        _resolve(node, file)
        plain = OmegaConf.to_container(node, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_describe_composition(error, folder, name, overrides)) from None
    except ValueError as error:
        # Of a group that is set to null Hydra says neither which, nor what to do.
        groups = [text.split("=")[0] for text in overrides if text.endswith("=null")]
        hint = f"; leave a group out with ~{groups[0]}" if groups else ""
        raise ConfigError(f"{', '.join(overrides)}: {error}{hint}") from None
    finally:
        logging.getLogger("hydra").setLevel(logging.WARNING)
    assert isinstance(plain, dict)
    settings: dict[str, object] = {str(key): value for key, value in plain.items()}
    check_keys(settings)
    return settings


def _resolve(node: DictConfig, file: Path) -> None:
    try:
        OmegaConf.resolve(node)
    except InterpolationResolutionError as error:
        keys = ", ".join(_unresolvable(node))
        raise ConfigError(f"{file}: {keys}: {' '.join(str(error).split())}") from None


def _unresolvable(node: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    """The entries that cannot be resolved, with what is written there: OmegaConf does not say."""
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        child = node._get_node(key)
        if not isinstance(child, Node):
            continue
        if isinstance(child, DictConfig | ListConfig) and not child._is_interpolation():
            yield from _unresolvable(child, f"{prefix}{key}.")
        elif child._is_interpolation():
            try:
                OmegaConf.select(node, str(key))
            except OmegaConfBaseException:
                yield f"{prefix}{key} = {child._value()}"


MAX_NODES = 20_000
"""Values in a YAML file, those that aliases repeat included: OmegaConf takes seconds for more."""
MAX_DEPTH = 64

# Plain scalars that YAML 1.1 reads as something else than they look like.
_SURPRISES = {
    "an octal number": re.compile(r"[-+]?0[0-7_]+"),
    "a number to the base 60": re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
}


def _files_of(folder: Path, file: Path) -> Iterator[Path]:
    """The files that a composition may read: a file with a defaults list reads its folder's."""
    yield file
    if b"defaults:" in file.read_bytes():
        yield from sorted(path for path in folder.rglob("*.yaml") if path != file)


def _check_document(path: Path) -> None:
    """Refuse what OmegaConf would take seconds for, end in a traceback on, or misread.

    Raises:
        ConfigError: not UTF-8, no YAML, nested too deeply, too large once its aliases are written
            out, or with a number in a form that YAML 1.1 reads otherwise.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _count_nodes(path, yaml.parse(path.read_text(encoding="utf-8"), Loader=loader))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        text = " ".join(str(error).split()).replace(' in "<unicode string>"', "")
        raise ConfigError(f"{path}: {text}") from None


def _count_nodes(path: Path, events: Iterator[yaml.Event]) -> None:
    """Count the nodes of a document by its events, without building or expanding anything."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > MAX_DEPTH:
                raise ConfigError(f"{path}: nested more than {MAX_DEPTH} levels deep")
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ConfigError(f"{path}: *{event.anchor} stands before the end of its anchor")
            anchor, size = None, sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            _refuse_surprise(path, event)
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        else:
            continue
        if anchor:
            sizes[anchor] = size
        if open_nodes:
            outer, count = open_nodes[-1]
            open_nodes[-1] = outer, count + size
            if count + size > MAX_NODES:
                raise ConfigError(f"{path}: more than {MAX_NODES} values, its aliases written out")


def _refuse_surprise(path: Path, scalar: yaml.ScalarEvent) -> None:
    for reading, pattern in _SURPRISES.items():
        if scalar.implicit[0] and pattern.fullmatch(scalar.value):
            line = scalar.start_mark.line + 1 if scalar.start_mark else 1
            raise ConfigError(
                f"{path}, line {line}: {scalar.value} is {reading} in YAML 1.1; write a plain "
                "number, or quotes around a text"
            )


def _describe_composition(
    error: Exception, folder: Path, name: str, overrides: Sequence[str]
) -> str:
    cause = error.__cause__ or error
    text, detail = (_NOISE.sub("", " ".join(str(part).split())) for part in (error, cause))
    failed = next((part for part in (cause, error) if getattr(part, "full_key", None)), None)
    full_key = str(getattr(failed, "full_key", ""))
    if full_key and "is not in struct" in detail:
        near = _suggest(full_key, _all_keys(_selected(folder, name, overrides)))
        return (
            f"{full_key}: unknown key{near} (write +{full_key}=... for a setting that {name}.yaml "
            "leaves at its default)"
        )
    if missing := _MISSING.search(detail):
        group, _, chosen = missing[1].rpartition("/")
        known = sorted(file.stem for file in (folder / group).glob("*.yaml"))
        near = _suggest(chosen, known) or f"; there is {', '.join(known) or 'none'}"
        return f"{group}={chosen}: no such file in {folder.name}/{group}{near}"
    if override := getattr(error, "override", None):
        text = f"{override}: {text}"
    elif failed is not None:
        text = f"{name}.yaml: {full_key}: {text}"
    return text if detail in text else f"{text}: {detail}"


def _selected(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    """What the files that are chosen hold, without the values that overrides give."""
    # A group is a folder; behind an @ stands where its file goes.
    groups = [o for o in overrides if (folder / re.split("[@=]", o.lstrip("+~"))[0]).is_dir()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        return compose(name, overrides=groups)


_MISSING = re.compile(r"Could not (?:find|load) '([^']+)'")
_NOISE = re.compile(r" full_key: .*")
"""What OmegaConf appends: the key, which is named first here, and types."""


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
            raise ConfigError(f"{dotted}: not there; {there}{_suggest(part, known)}")
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
