"""The one rule for names that become words of a command, folders, files and figures."""

import difflib
import re
from collections.abc import Iterable, Mapping

from plumbline.errors import ConfigError

MAX_NAME_CHARS = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME_CHARS - 1}}}")
RULE = f"letters, digits, _ and - only, a letter or digit first, at most {MAX_NAME_CHARS}"

GROUPS = ("objects", "weights", "datasets", "align", "tasks")
"""The mappings whose keys dvc.yaml makes stages of."""


def is_name(text: object) -> bool:
    """Whether a text keeps the rule."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def check_name(where: str, name: object) -> None:
    """Refuse a name that is none.

    Args:
        where: what it names, for the message.
        name: as it stands in the settings.

    Raises:
        ConfigError: names the place, the name and the rule.
    """
    if not is_name(name):
        raise ConfigError(f"{where}: {name!r} is not a name that can be used: {RULE}")


def check_keys(params: Mapping[str, object]) -> None:
    """Check the keys of the mappings that dvc.yaml makes stages of.

    Raises:
        ConfigError: a key is no name, or two differ by case only, as some file systems do not.
    """
    for group in GROUPS:
        entries = params.get(group)
        names = list(entries) if isinstance(entries, Mapping) else []
        for name in names:
            check_name(f"a key of {group}", name)
        if pairs := alike(names):
            one, other = pairs[0]
            raise ConfigError(
                f"keys of {group}: {one} and {other} differ by case only, and some file systems "
                "keep one folder for both; rename one"
            )


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ by case only, each with the first of its kind."""
    first: dict[str, str] = {}
    pairs = []
    for name in sorted(names):
        if first.setdefault(name.casefold(), name) != name:
            pairs.append((first[name.casefold()], name))
    return pairs


def suggest(name: str, valid: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest one that there is, or nothing."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
