"""Overrides of a point: written in Hydra's grammar, and checked before anything runs."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from plumbline.config import compose_yaml
from plumbline.errors import ConfigError

_BARE = re.compile(r"[A-Za-z_][\w./-]*")
_RESERVED = {"null", "true", "false", "inf", "nan"}


def to_text(value: object) -> str:
    """Write a value in the grammar of Hydra's overrides, so that it is read back as it is.

    >>> to_text(1e-05), to_text("a, b"), to_text([1, None, "x"]), to_text({"a": True})
    ('1e-05', "'a, b'", '[1,null,x]', '{a:true}')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{to_text(str(k))}:{to_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(to_text, value)) + "]"
    text = str(value)
    if _BARE.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    # Backslashes matter to Hydra only before a quote: those are doubled, the quote is escaped.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def parse(overrides: Sequence[str]) -> list[Override]:
    """Read overrides.

    Raises:
        ConfigError: one is not in Hydra's grammar, or stands for several values.
    """
    parser = OverridesParser.create()
    found = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise ConfigError(f"{text}: no override ({' '.join(str(error).split())})") from None
        if override.is_sweep_override():
            raise ConfigError(f"{text}: several values; put the key into space as a choice")
        found.append(override)
    return found


def is_group(override: Override, conf: Path) -> bool:
    """Whether an override chooses a file of a group of conf/, not a value."""
    key = override.key_or_group
    return "/" in key or override.package is not None or (conf / key).is_dir()


def check_keys(conf: Path, fixed: Sequence[str], space: Sequence[str]) -> None:
    """Refuse keys that conf/ does not have, with the nearest that it has.

    Raises:
        ConfigError: one line for the first such key.
    """
    parsed = parse(fixed)
    groups = [text for text, o in zip(fixed, parsed, strict=True) if is_group(o, conf)]
    known = list(_keys(compose_yaml(conf, "config", groups)))
    names = [o.key_or_group for o in parsed if not (is_group(o, conf) or o.is_add())]
    for key in space:
        override = parse([f"{key}=0"])[0]
        if not (is_group(override, conf) or override.is_add()):
            names.append(key)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{name}: unknown key{hint}")


def _keys(node: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def check_point(root: Path, overrides: Sequence[str]) -> dict[str, object]:
    """Compose conf/ with a point's overrides and let the stages check the settings.

    A project without `stages/check_params.py` is checked by its composition alone.

    Returns:
        What params.yaml will hold.

    Raises:
        ConfigError: one line; the overrides do not compose, or a stage refuses a setting.
    """
    params = compose_yaml(root / "conf", "config", overrides)
    if (root / "stages" / "check_params.py").is_file():
        from plumbline.stages.check_params import check_settings

        check_settings(params)
    return params


def same_params(one: object, other: object) -> bool:
    """Whether two compositions are equal, types included: DVC tells 1 from 1.0."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(same_params(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_params, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)
