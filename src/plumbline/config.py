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
from typing import Any, TypeVar, cast, get_args

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml import YAMLError

from plumbline.errors import ConfigError


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
    written = _without_tags(schema, [field, *inner])[1:]
    path = ".".join([sections.get(str(field), str(field)), *(str(p) for p in written)])
    more = f" (and {len(rest)} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        known = _known_names(schema, [field, *inner[:-1]])
        name = str(inner[-1]) if inner else str(field)
        return f"{path}: unknown key{_suggest(name, known)}{more}"
    if first["type"] == "missing":
        return f"{path}: missing; it has no default{more}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = first["input"]
    shown = "" if isinstance(value, dict | list) and value else f" = {value!r}"
    return f"{path}{shown}: {message}{more}"


def _known_names(schema: Any, path: Sequence[int | str]) -> list[str]:
    """The valid keys at `path`, following fields, lists, mappings and tagged unions."""
    names: list[str] = []
    for model in _models_in(schema):
        if not path:
            names += list(model.model_fields)
        elif str(path[0]) in model.model_fields:
            names += _known_names(model.model_fields[str(path[0])].annotation, path[1:])
    if not names and path:
        # A list index, a mapping key or the tag of a union: not a field, one level of location.
        names = _known_names(schema, path[1:])
    return names


def _without_tags(schema: Any, path: Sequence[int | str]) -> list[int | str]:
    """A location without the tags that pydantic puts in for members of tagged unions."""
    if not path:
        return []
    head, *rest = path
    for model in _models_in(schema):
        if str(head) in model.model_fields:
            field = model.model_fields[str(head)]
            if field.discriminator and rest:
                rest = rest[1:]
            return [head, *_without_tags(field.annotation, rest)]
    return [head, *_without_tags(schema, rest)]


def _models_in(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def fix_threads(threads: int) -> None:
    """Fix the number of compute threads before torch is imported: float sums depend on it."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
