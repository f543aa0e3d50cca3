"""The first rows through the real source, validator and look at shapes, in a temporary folder."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa

from plumbline.config import check_config
from plumbline.data.parquet import iter_table, list_parquet
from plumbline.errors import DataError
from plumbline.scratch import scratch_folder
from plumbline.shapes.detect import Looked, ShapesConfig, look_at
from plumbline.shapes.remarks import describe_distributions
from plumbline.shapes.repeats import describe_repeats
from plumbline.sources.account import count_passed_over
from plumbline.sources.base import Source
from plumbline.sources.registry import write_raw
from plumbline.stages.prepare import PrepareConfig
from plumbline.stages.validate import ValidateConfig
from plumbline.validation.filing import QUARANTINE
from plumbline.validation.report import Report
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.validate import ValidationFailed, validate

TRIED_ROWS = 2000
TRIED_BYTES = 2**26
"""Of more rows, or larger ones, the first are tried."""
SHOWN_ROWS = 10
SHOWN_REJECTED = 3
"""Rows of each reason."""
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3)
"""Of rows that are drawn for test, where so few are there that a tenth may be none."""
FEWEST_TEST_ROWS = 5


@dataclass
class Trial:
    """What became of the rows that were tried."""

    rows: int
    whole: bool
    """Whether these are all."""
    first: list[dict[str, object]]
    """The first rows in canonical columns."""
    report: Report
    rejected: dict[str, list[str]]
    """Reason -> the first rows that are, by id, with what is the matter."""
    problem: str
    """Why validation or what comes behind it would fail; empty where it would not."""
    looked: Looked | None
    """What the clean rows look like; None: they cannot be trained on."""
    share: float
    """Of rows that are drawn for val and for test."""
    said: list[str]
    """What the source and the validation have to say."""
    parted_groups: int = 0
    """Groups with rows in several splits, as given ones may part them."""
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often questions, with an answer each, stand in the training rows that were tried."""

    @property
    def splits(self) -> dict[str, int]:
        """Clean rows by split."""
        return self.report["rows_clean"]


def try_rows(path: Path, prepare: Mapping[str, object], rules: Mapping[str, object]) -> Trial:
    """Read the first rows as `prepare` does, and validate them.

    Args:
        path: the dataset's.
        prepare: settings of the source.
        rules: settings of validation, with its views.

    Raises:
        ConfigError: settings that no source has.
        DataError: a file cannot be read, or there is no row.
    """
    sections = {"path": "path", "prepare": "prepare"}
    params = {"path": path.as_posix(), "prepare": dict(prepare)}
    source = check_config(PrepareConfig, sections, params).prepare
    with scratch_folder() as folder:
        (folder / "raw").mkdir()
        first_rows = _FirstRows(source, path)
        whose = f"{path.as_posix()}, read as {prepare['source']},"
        rows = write_raw(first_rows.batches(), [], folder / "raw", whose)
        said = source.tally.lines()
        if first_rows.whole:
            said = [*count_passed_over(path, source).lines(), *said]
        shares = SHARES if first_rows.whole and not source.given_splits else SHARES[:1]
        for share in shares:
            trial = _judge(folder / f"{share}", folder / "raw", rules, share)
            if trial.splits.get("test", 0) >= FEWEST_TEST_ROWS:
                break
        trial.rows, trial.whole = rows, first_rows.whole
        trial.first = _read_first(folder / "raw")
        trial.said = [*said, *trial.said]
        if not trial.whole and trial.looked is None:
            trial.problem = ""  # such as one label alone: the rows behind may have the others
        return trial


class _FirstRows:
    """The first rows of a source, of each of its splits as many."""

    def __init__(self, source: Source, path: Path) -> None:
        self._source, self._path = source, path
        self.whole = True

    def batches(self) -> Iterator[pa.RecordBatch]:
        splits = getattr(self._source, "splits", None) or {"": ""}
        for split, place in splits.items():
            source = self._source
            if split and len(splits) > 1:
                # A shallow copy: the same tally counts what is passed over.
                source = source.model_copy(update={"splits": {split: place}})
            yield from self._limited(source, TRIED_ROWS // len(splits), TRIED_BYTES // len(splits))

    def _limited(self, source: Source, rows: int, size: int) -> Iterator[pa.RecordBatch]:
        for batch in source.read(self._path):
            if rows <= 0 or size <= 0:
                self.whole = False
                return
            yield batch.slice(0, rows)
            self.whole = self.whole and batch.num_rows <= rows
            rows, size = rows - batch.num_rows, size - batch.nbytes


def _judge(folder: Path, raw: Path, rules: Mapping[str, object], share: float) -> Trial:
    clean, quarantine = folder / "clean", folder / "quarantine"
    clean.mkdir(parents=True)
    quarantine.mkdir()
    config = _rules({**rules, "split": {"val": share, "test": share}})
    problem, looked = "", None
    try:
        report = validate(raw, clean, quarantine, config)
    except ValidationFailed as error:
        report, problem = error.report, str(error).partition(": ")[2]
    else:
        try:
            looked = look_at(clean, ShapesConfig(), config.views)
        except DataError as error:
            problem = str(error).partition(": ")[2]
    said = [line for line in report["warnings"] if "drawn for" not in line]
    if looked:
        said += [*describe_repeats(looked.shapes), *describe_distributions(looked.distributions)]
    parted = _count_parted(clean, report["rows_clean"])
    rejected = _read_rejected(quarantine)
    asks = any({"question", "answer"} <= {*columns} for columns in config.views.values())
    answered = _count_answered(clean) if asks and "train" in report["rows_clean"] else Counter()
    return Trial(0, True, [], report, rejected, problem, looked, share, said, parted, answered)


def _count_parted(clean: Path, splits: Iterable[str]) -> int:
    """Groups that stand in several of the splits."""
    times = Counter[str]()
    for split in splits:
        batches = iter_table(clean / f"{split}.parquet", ("group",))
        times.update({one for batch in batches for one in batch.column(0).to_pylist()})
    return sum(count > 1 for count in times.values())


def _count_answered(clean: Path) -> Counter[tuple[str, str]]:
    counts = Counter[tuple[str, str]]()
    for batch in iter_table(clean / "train.parquet", ("question", "answer")):
        pairs = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        counts.update(pair for pair in pairs if None not in pair)
    return counts


def _read_rejected(quarantine: Path) -> dict[str, list[str]]:
    rejected: dict[str, list[str]] = {}
    for batch in iter_table(quarantine / QUARANTINE, ("sample_id", "reason", "detail")):
        for row in batch.to_pylist():
            told = rejected.setdefault(row["reason"], [])
            if len(told) < SHOWN_REJECTED:
                told.append(": ".join(filter(None, (row["sample_id"], row["detail"]))))
    return rejected


def _rules(rules: Mapping[str, object]) -> ValidationConfig:
    config = check_config(ValidateConfig, {"validate_": "validate"}, {"validate": dict(rules)})
    return config.validate_


def _read_first(raw: Path) -> list[dict[str, object]]:
    batches = (batch for file in list_parquet(raw) for batch in _cautious(file))
    rows = (row for batch in batches for row in batch.to_pylist())
    return list(islice(rows, SHOWN_ROWS))


def _cautious(file: Path) -> Iterator[pa.RecordBatch]:
    """Batches with text as bytes: that of others need not be UTF-8."""
    for batch in iter_table(file):
        columns = [
            column.view(pa.binary()) if pa.types.is_string(column.type) else column
            for column in batch.columns
        ]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
