"""What the forwarder asks of a tracker, in words that none of them has alone."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plumbline.errors import PlumblineError
from plumbline.text import shown

RECORD_TAG = "plumbline.record"

ARTIFACT_BYTES = 5_000_000
"""Files from this size on are not copied: they lie in the outs, by their digest."""


class UnavailableError(PlumblineError):
    """The store does not answer now; the same call may succeed later."""


class RejectedError(PlumblineError):
    """The store refuses this one call, and would refuse it again."""


@dataclass(frozen=True)
class Metric:
    """One point of a series; `time_ms` since 1970, `step` in optimiser steps."""

    name: str
    value: float
    time_ms: int
    step: int


class RunStore(Protocol):
    """The forwarder's needs of a tracker; calls raise `UnavailableError` or `RejectedError`."""

    def open_run(
        self, name: str, tags: Mapping[str, str], start_ms: int, parent: str | None
    ) -> str:
        """Return the id of the run whose `RECORD_TAG` is that of `tags`, created if need be."""
        ...

    def log(
        self,
        run: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add to a run; what it has already is not doubled."""
        ...

    def log_artifact(self, run: str, path: Path) -> None:
        """Copy one file to a run."""
        ...

    def set_status(self, run: str, status: str, end_ms: int | None) -> None:
        """Set RUNNING, FINISHED, FAILED or KILLED."""
        ...


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested settings or figures by dotted key; a list is one leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_text(value: object) -> str:
    """A setting or fact as MLflow keeps it: text as it is, anything else in JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def describe(error: BaseException) -> str:
    """One line of text for the log, without the credentials that an address may hold."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return without_credentials(shown(text))[:300]


def without_credentials(text: str) -> str:
    """A text without the credentials that the addresses in it hold."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


_ON_DISK = ("sqlite", "tensorboard", "wandb")


def place_of(address: str) -> Path | None:
    """The file or folder behind the address of a store on this disk; None for a server."""
    scheme, found, path = address.partition(":///")
    return Path(path.partition("?")[0]) if found and scheme in _ON_DISK else None
