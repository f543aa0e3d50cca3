"""From YAML files and overrides to plain settings, by Hydra; and what is said where they do not go.

Whatever is wrong becomes one `ConfigError` line that names the file, the key and the nearest name.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from plumbline.errors import ConfigError
from plumbline.names import check_keys, suggest


def compose_file(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, object]:
    """As `plumbline.config.compose_yaml`, which is the door to it.

    Raises:
        ConfigError: as it says.
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
        near = suggest(full_key, _all_keys(_selected(folder, name, overrides)))
        return (
            f"{full_key}: unknown key{near} (write +{full_key}=... for a setting that {name}.yaml "
            "leaves at its default)"
        )
    if missing := _MISSING.search(detail):
        group, _, chosen = missing[1].rpartition("/")
        known = sorted(file.stem for file in (folder / group).glob("*.yaml"))
        near = suggest(chosen, known) or f"; there is {', '.join(known) or 'none'}"
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
