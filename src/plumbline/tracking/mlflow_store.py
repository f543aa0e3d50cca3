"""The few things the forwarder asks of MLflow, and MLflow's limits and failures behind them.

Only the forwarder's process uses this module, and mlflow (seconds) is imported on opening alone.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
    from mlflow import MlflowClient

EXPERIMENT = "plumbline"

# Source: mlflow.utils.validation, version 3.17.
_METRICS_A_CALL = 1000
_PARAMS_OR_TAGS_A_CALL = 100
_KEY_LENGTH = 250
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000  # 8000 since MLflow 2.20; a server may be older

# Seven retries of 120 s are MLflow's default; telemetry would call out from an offline machine.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}

_REFUSALS = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "RESOURCE_DOES_NOT_EXIST",
    }
)

ItemT = TypeVar("ItemT")


def clean_name(name: str) -> str:
    """A metric, parameter or tag name that MLflow takes: `recall@10` becomes `recall_at_10`.

    A name that MLflow does not take as it is ends in a digest of it, so that no two share a series.
    """
    wanted = name.replace("@", "_at_")
    cleaned = re.sub(r"[^\w./ :-]", "_", wanted, flags=re.ASCII)
    cleaned = "/".join(part for part in cleaned.split("/") if part not in ("", ".", ".."))
    if cleaned == wanted and 0 < len(wanted) <= _KEY_LENGTH:
        return cleaned
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{cleaned[: _KEY_LENGTH - 9]}-{digest}"


def _groups(items: Sequence[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@contextmanager
def _translated_errors(refusals: frozenset[str] = _REFUSALS) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        kind = RejectedError if error.error_code in refusals else UnavailableError
        raise kind(describe(error)) from error
    except (OSError, SQLAlchemyError) as error:
        raise UnavailableError(describe(error)) from error


class MlflowStore:
    """The experiment `plumbline` in one MLflow store."""

    def __init__(self, client: "MlflowClient", experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id

    @property
    def experiment_id(self) -> str:
        """Of the experiment that all runs are in."""
        return self._experiment_id

    def open_run(
        self, name: str, tags: Mapping[str, str], start_ms: int, parent: str | None
    ) -> str:
        """See `RunStore`."""
        tags = _clean_tags(tags)
        tags |= {"mlflow.parentRunId": parent} if parent else {}
        with _translated_errors():
            # A forwarder may have ended between creating a run and noting its id.
            found = self._client.search_runs(
                [self._experiment_id], f"tags.`{RECORD_TAG}` = '{tags[RECORD_TAG]}'", max_results=1
            )
            if found:
                return str(found[0].info.run_id)
            run = self._client.create_run(self._experiment_id, start_ms, tags, name)
            return str(run.info.run_id)

    def log(
        self,
        run: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """See `RunStore`."""
        from mlflow.entities import Metric as MlflowMetric
        from mlflow.entities import Param, RunTag

        points = [MlflowMetric(clean_name(m.name), m.value, m.time_ms, m.step) for m in metrics]
        settings = [
            Param(clean_name(key), shown(value)[:_PARAM_LENGTH])
            for key, value in (params or {}).items()
        ]
        labels = [RunTag(key, value) for key, value in _clean_tags(tags or {}).items()]
        with _translated_errors():
            for some_settings in _groups(settings, _PARAMS_OR_TAGS_A_CALL):
                self._client.log_batch(run, params=some_settings)
            for some_labels in _groups(labels, _PARAMS_OR_TAGS_A_CALL):
                self._client.log_batch(run, tags=some_labels)
            for some_points in _groups(points, _METRICS_A_CALL):
                self._client.log_batch(run, metrics=some_points)

    def log_artifact(self, run: str, path: Path) -> None:
        """See `RunStore`.

        Raises:
            RejectedError: the file is absent, no plain file or too large, or its place at the store
                cannot be written.
        """
        if not path.is_file() or path.stat().st_size >= ARTIFACT_BYTES:
            raise RejectedError(f"{path}: no file below {ARTIFACT_BYTES} bytes")
        with _translated_errors():
            try:
                self._client.log_artifact(run, str(path))
            except OSError as error:
                raise RejectedError(describe(error)) from error

    def set_status(self, run: str, status: str, end_ms: int | None) -> None:
        """See `RunStore`."""
        with _translated_errors():
            if end_ms is None:
                self._client.update_run(run, status)
            else:
                self._client.set_terminated(run, status, end_ms)


def _clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {clean_name(key): shown(value)[:_TAG_LENGTH] for key, value in tags.items()}


def address_of(root: Path) -> str:
    """Where MLflow keeps its runs: `MLFLOW_TRACKING_URI`, else a database in the checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root}/mlflow.db"


def database_of(uri: str) -> Path | None:
    """The file behind an SQLite address; None for a server."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def open_store(uri: str, root: Path) -> MlflowStore:
    """Open the store at `uri`, creating its database and the experiment when they are missing.

    Raises:
        UnavailableError: it does not answer, or the experiment has been deleted in it.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.entities import LifecycleStage

    # They write tracebacks and retries; the forwarder says the same in one line.
    for chatty in ("mlflow", "urllib3", "alembic"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    database = database_of(uri)
    with _translated_errors(refusals=frozenset()):  # refused here, everything waits
        if database and not database.exists():
            _create_database(database)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        if found and found.lifecycle_stage == LifecycleStage.DELETED:
            raise UnavailableError(
                f"experiment {EXPERIMENT} is deleted in MLflow; restore it there"
            )
        if found:
            return MlflowStore(client, str(found.experiment_id))
        # A server knows its own place for artifacts; MLflow's default beside a database is the
        # working folder.
        artifacts = (root / "mlartifacts").resolve().as_uri() if database else None
        return MlflowStore(client, str(client.create_experiment(EXPERIMENT, artifacts)))


def _create_database(path: Path) -> None:
    """Create MLflow's database whole or not at all: one left half-made stays unusable."""
    from mlflow import MlflowClient

    partial = path.with_name(f"{path.name}.partial")
    for stale in path.parent.glob(f"{partial.name}*"):  # with its journal, which would be replayed
        stale.unlink()
    MlflowClient(f"sqlite:///{partial}").search_experiments()
    try:
        os.link(partial, path)  # unlike a rename, never over a database that came meanwhile
    except FileExistsError:
        pass
    finally:
        partial.unlink()
