"""Source `hub`: what the library `datasets` reads, by an id of the hub or with one of its builders.

Nothing is run that a dataset brings with it: the library reads files by their formats alone.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from plumbline.config import Config
from plumbline.data.columns import SPLITS
from plumbline.data.parquet import matching_columns, plain_batch
from plumbline.errors import ConfigError, DataError
from plumbline.sources.arrow_table import ArrowTableSource, RowPlaces
from plumbline.sources.base import require_path
from plumbline.sources.files import name_bytes

if TYPE_CHECKING:
    from datasets import IterableDataset

BATCH_ROWS = 64
"""The library says nothing of the size of rows before it has read them."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubDataset(Config):
    """A dataset of the hub at one commit."""

    id: str
    """Owner and name, such as nlphuji/flickr30k."""
    revision: str
    """The commit: a branch or a tag would be other rows another day."""

    @field_validator("revision")
    @classmethod
    def _is_commit(cls, revision: str) -> str:
        if not _COMMIT.fullmatch(revision):
            raise ValueError(f"{revision!r} is not a commit: give all 40 digits")
        return revision


class HubSource(ArrowTableSource):
    """What the library `datasets` finds in a folder or on the hub, by `source: hub`."""

    source: Literal["hub"]
    dataset: HubDataset | None = None
    """None: the dataset's path is the folder. Else its path is one that never changes."""
    builder: str | None = None
    """A format of the library, such as `json` or `imagefolder`; None: the library decides."""
    subset: str | None = None
    """Which of several datasets lies there, as its card names them."""
    splits: dict[Literal["train", "val", "test"], str] = Field(default_factory=dict)
    """Ours -> the name that it has there. Empty: the rows of all of them, split by hash."""

    @property
    def given_splits(self) -> list[str]:
        """The splits that are named."""
        return sorted(self.splits)

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield every row, with its split where one is given.

        Raises:
            ConfigError: the library is not installed, or what is named is not there.
            DataError: the files cannot be read, or columns are other than configured.
        """
        require_path(path)
        root = _fetch(self.dataset) if self.dataset else path.absolute()
        there = self._open(root)
        names = {self.splits[ours]: ours for ours in SPLITS if ours in self.splits}
        if missing := sorted(set(names) - set(there)):
            raise DataError(
                f"{self._whose(path)}: no split {missing[0]}; there is {', '.join(there)}"
            )
        for name in names or there:
            yield from self._read_split(there[name], name, names.get(name, ""), root)

    @property
    def _chat_fields(self) -> list[str]:
        return self.chat.all_names if self.chat else []

    def _whose(self, path: Path) -> str:
        return self.dataset.id if self.dataset else path.as_posix()

    def _open(self, root: Path) -> Mapping[str, "IterableDataset"]:
        """The splits by the names that they have there, as streams of the library."""
        try:
            import datasets
        except ImportError:
            raise ConfigError(
                "source hub: the package datasets is not installed; pip install 'plumbline[hub]'"
            ) from None
        datasets.disable_progress_bars()
        try:
            there: Mapping[str, IterableDataset]
            if self.builder:
                data = {"data_dir": str(root)} if root.is_dir() else {"data_files": str(root)}
                there = datasets.load_dataset(self.builder, self.subset, streaming=True, **data)
            else:
                there = datasets.load_dataset(str(root), self.subset, streaming=True)
            return there
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"{self._whose(root)}: {_one_line(error)}") from None

    def _read_split(
        self, rows: "IterableDataset", name: str, split: str, root: Path
    ) -> Iterator[pa.RecordBatch]:
        first = 0
        try:
            for table in rows.with_format("arrow").iter(batch_size=BATCH_ROWS):
                whose = f"{self._whose(root)}, split {name}"
                has = matching_columns(
                    whose, table.schema, self.required, self.optional, self.can_convert
                )
                readers = self.make_readers(table.schema, root)
                fields = [field for reader in readers.values() for field in reader.names]
                fields += [field for field in self._chat_fields if field in has]
                for batch in table.combine_chunks().to_batches():
                    plain = plain_batch(batch, list(dict.fromkeys(fields)))
                    places = RowPlaces(root, name_bytes(name), split, first, self.tally)
                    yield from self.canonical(plain, readers, places)
                    first += batch.num_rows
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{self._whose(root)}, split {name}: {_one_line(error)}") from None


def _fetch(dataset: HubDataset) -> Path:
    """The folder of a dataset on this machine, fetched where it is not there.

    Raises:
        ConfigError: it cannot be had: no network, no such id or commit, or no right to it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(dataset.id, repo_type="dataset", revision=dataset.revision))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ConfigError(
            f"{dataset.id} at {dataset.revision[:12]}: not on this machine and not to be had "
            f"from the hub ({_one_line(error)}); fetch it where there is a network, or set the "
            "dataset's path to a folder with it"
        ) from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
