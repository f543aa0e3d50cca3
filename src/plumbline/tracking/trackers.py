"""The table of trackers: what shows runs while they go on. Files are the record; these are views.

A tracker is a module with `address_of(root)`, where its runs lie, and `open_store(address, root)`,
which gives a `run_store.RunStore`. A process of its own copies the records to each one that
`PLUMBLINE_TRACKING` names, so none can slow a stage, or another tracker.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.files import STATE_DIR
from plumbline.registry import Registry, load_attribute
from plumbline.tracking.run_store import RunStore

VARIABLE = "PLUMBLINE_TRACKING"
"""Environment variable: names of trackers with commas between them, or off."""
OFF = "off"


@dataclass(frozen=True)
class Tracker:
    """A tracker, none of whose code is loaded yet."""

    module: str
    package: str
    """What it imports."""
    extra: str = ""
    """Of plumbline, which installs that; "": plumbline itself does."""
    prefix: str = ""
    """Of its files in `.plumbline`."""
    rewrites: bool = False
    """Whether a run that another process has begun is written from its start: its files cannot be
    asked what they hold already."""

    @property
    def state(self) -> Path:
        """How far its copies have come, below the root of a checkout."""
        return STATE_DIR / f"{self.prefix}forwarder-state.json"

    @property
    def lock(self) -> Path:
        """Held by the process that copies."""
        return STATE_DIR / f"{self.prefix}forwarder.lock"

    @property
    def store_lock(self) -> Path:
        """Held while its store may be in creation: two creators of a database leave it unusable."""
        return STATE_DIR / f"{self.prefix}store.lock"

    @property
    def log(self) -> Path:
        """What that process says."""
        return STATE_DIR / f"{self.prefix}forwarder.log"

    @property
    def address_of(self) -> Callable[[Path], str]:
        """Where its runs of a checkout lie."""
        found: Callable[[Path], str] = load_attribute(f"{self.module}:address_of")
        return found

    @property
    def open_store(self) -> Callable[[str, Path], RunStore]:
        """What opens the store at an address, for a checkout."""
        found: Callable[[str, Path], RunStore] = load_attribute(f"{self.module}:open_store")
        return found

    def missing(self) -> str:
        """What to install so that it works; "": nothing."""
        if importlib.util.find_spec(self.package) is not None:
            return ""
        what = f"plumbline[{self.extra}]" if self.extra else self.package
        return f"{self.package} is not installed: pip install '{what}'"


TRACKERS: Registry[Tracker] = Registry("tracker")
"""Name -> tracker."""

TRACKERS.register("mlflow", Tracker("plumbline.tracking.mlflow_store", "mlflow"))
for _name in ("tensorboard", "wandb"):
    TRACKERS.register(
        _name,
        Tracker(
            f"plumbline.tracking.{_name}_store",
            package=_name,
            extra=_name,
            prefix=f"{_name}-",
            rewrites=True,
        ),
    )


def selected() -> dict[str, Tracker]:
    """The trackers that the environment names; MLflow where it says nothing.

    Raises:
        ConfigError: one is unknown.
    """
    text = os.environ.get(VARIABLE) or "mlflow"
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if names == [OFF]:
        return {}
    try:
        return {name: TRACKERS[name] for name in names}
    except ConfigError as error:
        raise ConfigError(f"{VARIABLE} = {text!r}: {error}; off, alone, for none") from None
