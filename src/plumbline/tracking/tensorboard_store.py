"""Runs as TensorBoard shows them: a folder of event files for each, below that of its pipeline.

`tensorboard --logdir .plumbline/tensorboard`. Its own writer alone is used, without torch: only the
forwarder's process loads this module. A file that a run names is not shown: there is no place.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.files import STATE_DIR
from plumbline.text import shown
from plumbline.tracking.record import file_name
from plumbline.tracking.run_store import RECORD_TAG, Metric, UnavailableError, describe

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

FOLDER = STATE_DIR / "tensorboard"

_SCHEME = "tensorboard:///"


class TensorboardStore:
    """The folder of one checkout; its runs are named by the path below it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, EventFileWriter] = {}

    def open_run(
        self, name: str, tags: Mapping[str, str], start_ms: int, parent: str | None
    ) -> str:
        """See `RunStore`: what another process has begun of it is taken away first."""
        if parent is None:
            return file_name(name)
        # Of the record, with the process that wrote it: a stage may run twice in one pipeline.
        record = tags[RECORD_TAG].rpartition("/")[2].removesuffix(".jsonl")
        run = f"{parent}/{file_name(record)}"
        with _translated_errors():
            if run not in self._writers and (self._folder / run).exists():
                shutil.rmtree(self._folder / run)
            self._add_texts(run, "tags", tags, start_ms)
        return run

    def log(
        self,
        run: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """See `RunStore`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        with _translated_errors():
            for metric in metrics:
                value = Summary.Value(tag=metric.name, simple_value=metric.value)
                event = Event(
                    wall_time=metric.time_ms / 1000,
                    step=metric.step,
                    summary=Summary(value=[value]),
                )
                self._writer(run).add_event(event)
            for name, texts in {"settings": params, "facts": tags}.items():
                self._add_texts(run, name, texts or {})
            self._writer(run).flush()

    def log_artifact(self, run: str, path: Path) -> None:
        """See `RunStore`: TensorBoard shows no files."""

    def set_status(self, run: str, status: str, end_ms: int | None) -> None:
        """See `RunStore`."""
        if "/" not in run:  # a pipeline is a folder
            return
        with _translated_errors():
            if end_ms is not None:
                self._add_texts(run, "status", {"status": status}, end_ms)
                self._writer(run).close()
                del self._writers[run]

    def _writer(self, run: str) -> "EventFileWriter":
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if run not in self._writers:
            self._writers[run] = EventFileWriter(str(self._folder / run))
        return self._writers[run]

    def _add_texts(
        self, run: str, name: str, texts: Mapping[str, str], time_ms: int | None = None
    ) -> None:
        """Add values by name as a table, which TensorBoard shows below its texts."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto

        if not texts:
            return
        rows = [f"| {shown(key)} | {_cell(value)} |" for key, value in sorted(texts.items())]
        table = "\n".join(["| name | value |", "|---|---|", *rows])
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        value = Summary.Value(
            tag=name,
            metadata=SummaryMetadata(plugin_data=plugin),
            tensor=TensorProto(dtype="DT_STRING", string_val=[table.encode()]),
        )
        event = Event(summary=Summary(value=[value]))
        if time_ms is not None:
            event.wall_time = time_ms / 1000
        self._writer(run).add_event(event)


def _cell(value: str) -> str:
    return " ".join(shown(value)[:2000].split()).replace("|", "\\|")


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(describe(error)) from error


def address_of(root: Path) -> str:
    """A folder of the checkout."""
    return f"{_SCHEME}{root / FOLDER}"


def open_store(address: str, root: Path) -> TensorboardStore:
    """Open the folder at an address.

    Raises:
        UnavailableError: it cannot be made.
    """
    logging.getLogger("tensorboard").setLevel(logging.CRITICAL)
    folder = Path(address.removeprefix(_SCHEME))
    with _translated_errors():
        folder.mkdir(parents=True, exist_ok=True)
    return TensorboardStore(folder)
