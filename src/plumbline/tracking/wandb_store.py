"""Runs as Weights & Biases has them: on this disk, unless the environment says `WANDB_MODE=online`.

`wandb sync .plumbline/wandb/offline-run-*` sends what was written offline. Only the forwarder's
process loads this module, and wandb on opening alone.
"""

import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.files import STATE_DIR
from plumbline.text import shown
from plumbline.tracking.run_store import (
    ARTIFACT_BYTES,
    RECORD_TAG,
    Metric,
    RejectedError,
    UnavailableError,
    describe,
)

if TYPE_CHECKING:
    from wandb import Run

FOLDER = STATE_DIR / "wandb"
PROJECT = "plumbline"
STEP = "global_step"
OFFLINE = "offline"

_SCHEME = "wandb:///"
_FACTS = "facts/"


class WandbStore:
    """The project `plumbline`, or the one that `WANDB_PROJECT` names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[str, Run] = {}

    def open_run(
        self, name: str, tags: Mapping[str, str], start_ms: int, parent: str | None
    ) -> str:
        """See `RunStore`: a pipeline is a group, and a run takes the place of one of its id."""
        if parent is None:
            return name
        # Ids have 64 characters at most; the same record has the same one.
        run = hashlib.sha256(tags[RECORD_TAG].encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if run in self._runs:
            return run
        import wandb

        with _translated_errors():
            # What a forwarder that died has begun of it, and would be sent beside it.
            for left in self._folder.glob(f"{FOLDER.name}/offline-run-*-{run}"):
                shutil.rmtree(left)
            self._runs[run] = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=run,
                name=name,
                group=parent,
                dir=str(self._folder),
                mode="online" if _mode() == "online" else OFFLINE,
                config={"tags": {key: shown(value) for key, value in tags.items()}},
                reinit="create_new",
                settings=wandb.Settings(
                    **{"console": "off", "silent": True, "disable_git": True, "disable_code": True},
                    **{"x_disable_stats": True, "x_disable_meta": True},
                ),
            )
            self._runs[run].define_metric(STEP)
            self._runs[run].define_metric("*", step_metric=STEP)
        return run

    def log(
        self,
        run: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """See `RunStore`: facts stand in the summary, all else in the history."""
        open_run = self._runs[run]
        facts = {m.name: m.value for m in metrics if m.name.startswith(_FACTS)}
        series = [m for m in metrics if not m.name.startswith(_FACTS)]
        texts = {key: shown(value) for key, value in (tags or {}).items()}
        with _translated_errors():
            for (step, time_ms), points in itertools.groupby(
                series, key=lambda metric: (metric.step, metric.time_ms)
            ):
                # The time of the event, and not that of its copy.
                values = {STEP: step, "_timestamp": time_ms / 1000}
                open_run.log({**{point.name: point.value for point in points}, **values})
            if params:
                settings = {key: shown(value) for key, value in params.items()}
                open_run.config.update({"settings": settings}, allow_val_change=True)
            if facts or texts:
                open_run.summary.update({**facts, **texts})

    def log_artifact(self, run: str, path: Path) -> None:
        """See `RunStore`.

        Raises:
            RejectedError: the file is absent, no plain file or too large.
        """
        if not path.is_file() or path.stat().st_size >= ARTIFACT_BYTES:
            raise RejectedError(f"{path}: no file below {ARTIFACT_BYTES} bytes")
        with _translated_errors():
            # A copy: what the path names may be another file before it is sent.
            copied = Path(shutil.copy(path, self._runs[run].dir))
            self._runs[run].save(str(copied), base_path=str(copied.parent), policy="now")

    def set_status(self, run: str, status: str, end_ms: int | None) -> None:
        """See `RunStore`."""
        with _translated_errors():
            if end_ms is not None and (ended := self._runs.pop(run, None)) is not None:
                ended.summary.update({"status": status})
                ended.finish(exit_code=0 if status == "FINISHED" else 1)


@contextmanager
def _translated_errors() -> Iterator[None]:
    from wandb.errors import Error

    try:
        yield
    except (OSError, Error) as error:
        raise UnavailableError(describe(error)) from error


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or OFFLINE


def address_of(root: Path) -> str:
    """A folder of the checkout; of runs that are sent, the server."""
    if _mode() == "online":
        return f"wandb:{os.environ.get('WANDB_BASE_URL', 'online')}"
    return f"{_SCHEME}{root / FOLDER}"


def open_store(address: str, root: Path) -> WandbStore:
    """Open the folder in which wandb writes its own.

    Raises:
        UnavailableError: it cannot be made.
    """
    # Its settings read the environment once, when it is imported.
    os.environ.setdefault("WANDB_MODE", OFFLINE)
    os.environ["WANDB_SILENT"] = "true"
    logging.getLogger("wandb").setLevel(logging.CRITICAL)
    with _translated_errors():
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
    return WandbStore((root / FOLDER).parent)
