"""Sort every row of a raw table into clean tables or quarantine, and account for each of them.

Two passes stream the input. The first judges each row on its own, column by column, in several
processes, and notes columns of verdicts on disk; arrays of some 40 bytes a row then settle splits,
repeated ids and leaks between splits; the second writes the tables. The output depends neither on
how rows are batched, nor on how many processes judge them, nor on what an earlier run has done.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from plumbline.data.columns import CANONICAL, CONTENT, KEYS
from plumbline.data.parquet import check_schema, list_parquet
from plumbline.data.parquet_writer import ROW_GROUP_ROWS
from plumbline.engines.base import Engine
from plumbline.engines.local import LocalEngine
from plumbline.errors import DataError
from plumbline.names import alike
from plumbline.validation.counts import Counts
from plumbline.validation.filed import FOLDER, find_filed, keep_filed
from plumbline.validation.filing import EXAMPLES, RowFiler
from plumbline.validation.kept import Kept, notes_folder
from plumbline.validation.leaks import Leak, compared_texts, describe_leaks, tell_leaks
from plumbline.validation.near import NearRows
from plumbline.validation.notes import Notes
from plumbline.validation.pass_one import PassOne, with_channels
from plumbline.validation.raw_table import RawTable
from plumbline.validation.report import Report, check_sums
from plumbline.validation.rules import make_rules
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.settling import find_shared, find_shared_cells, settle
from plumbline.validation.splits import SPLIT_CODES
from plumbline.validation.verdicts import Verdicts


class ValidationFailed(DataError):  # noqa: N818  (pydantic has the name ValidationError)
    """The data cannot be used as a whole; the report says why."""

    def __init__(self, message: str, report: Report) -> None:
        """Keep the report for the caller to write."""
        super().__init__(message)
        self.report = report


def validate(
    raw: Path,
    clean: Path,
    quarantine: Path,
    config: ValidationConfig,
    *,
    batch_rows: int = ROW_GROUP_ROWS,
    engine: Engine | None = None,
    kept: Kept | None = None,
) -> Report:
    """Write `clean/<split>.parquet` and `quarantine/rows.parquet`, and return the report.

    A row stays if at least one view can use it; its faulty cells become null, so that a cell of a
    clean table is good or null. Of rows with the same sample_id in one part the first stays. Of
    rows with the same sample_id or medium in two splits, those in test stay before those in val
    before train.

    Args:
        raw: folder with the raw table in canonical columns.
        clean: an existing, empty folder.
        quarantine: an existing, empty folder; working files lie below it while this runs.
        config: the rules.
        batch_rows: the most rows to hold at a time; the output does not depend on it.
        engine: where rows are judged; None: in processes of this machine, as many as pay.
        kept: where to look for rows that an earlier run has judged; None: nowhere.

    Raises:
        ValidationFailed: no valid row, a given split or a view without one, or too many faults.
        DataError: the input is missing, unreadable or lacks a column; nothing has been judged.
    """
    paths = list_parquet(raw)
    columns, names = _columns(paths, config)
    config = with_channels(paths, config, columns, batch_rows)
    with (
        TemporaryDirectory(prefix=".verdicts-", dir=quarantine) as folder,
        notes_folder(kept, config, Path(folder)) as place,
        closing(NearRows(Path(folder), config.leaks)) as near,
    ):
        judging = PassOne(names, columns, config, place, batch_rows)
        table = RawTable(paths, Path(folder), compared_texts(columns))
        seen = table.judge(judging, engine or LocalEngine(), near)
        warnings = [*settle(table.verdicts, near, config, seen.splits), *_tell_lines(seen)]
        rules = make_rules(config, columns)
        filer = partial(
            RowFiler, *(clean, quarantine, rules, table.starts), has_parts=table.has_parts
        )
        filed = _file(table, filer, place / FOLDER if kept else None, names, batch_rows)
        leaks = [
            *_find_leaks(table.verdicts, compared_texts(columns), filed),
            *near.leaks(EXAMPLES, filed.place),
        ]
        warnings += filed.counts.labels.warnings() + _alike_parts(seen.parts)
        report = _describe(config, filed.counts, leaks, warnings)
        check_sums(report, table.verdicts.rows, raw)
    if problem := _find_problem(report, config, seen):
        raise ValidationFailed(f"{raw}: {problem}", report)
    return report


def _columns(paths: Sequence[Path], config: ValidationConfig) -> tuple[list[str], list[str]]:
    """Columns of content that a view needs, and those to read: with the keys that are there."""
    columns = [name for name in CONTENT if any(name in view for view in config.views.values())]
    required = {name: CANONICAL[name] for name in ("sample_id", *columns)}
    optional = {name: CANONICAL[name] for name in KEYS if name != "sample_id"}
    present = check_schema(paths, required, optional)
    return columns, [name for name in (*KEYS, *columns) if name in present]


def _file(
    table: RawTable,
    make_filer: Callable[..., RowFiler],
    kept: Path | None,
    names: Sequence[str],
    batch_rows: int,
) -> RowFiler:
    """Run pass two, on from what lies in `kept` where that stands in front; keep what it wrote."""
    marks = table.marks()
    done = find_filed(kept, marks, has_parts=table.has_parts) if kept else 0
    filer = make_filer(begun=kept if done else None)
    with closing(filer):
        table.file(names, filer, batch_rows, done)
    if kept:
        keep_filed(kept, marks, filer.tables(), filer.counts, has_parts=table.has_parts)
    return filer


def _find_leaks(verdicts: Verdicts, texts: Sequence[str], filer: RowFiler) -> list[Leak]:
    """What stands in several splits once all rows are where they belong."""
    contents = {"media": verdicts.media, "texts": verdicts.texts}
    rows = [
        leak
        for what, held in contents.items()
        for leak in describe_leaks(what, find_shared(verdicts, held, EXAMPLES), filer.place)
    ]
    return [*rows, *find_shared_cells(verdicts, texts)]


def _tell_lines(seen: Notes) -> list[str]:
    lines = sum(seen.lines.values())
    return [f"decoders wrote {lines} lines about media to stderr, not shown here"] * bool(lines)


def _alike_parts(parts: AbstractSet[str]) -> list[str]:
    return [
        f"parts {one} and {other} differ by case only: some file systems keep one file for both"
        for one, other in alike(parts)
    ]


def _describe(
    config: ValidationConfig,
    counts: Counts,
    leaks: list[Leak],
    warnings: list[str],
) -> Report:
    view_rows: dict[str, Counter[str]] = {view: Counter() for view in config.views}
    by_priority = sorted(counts.views, key=lambda key: (SPLIT_CODES[key[0]], key[1]))
    for split, mask in by_priority:
        for bit, view in enumerate(config.views):
            if mask >> bit & 1:
                view_rows[view][split] += counts.views[split, mask]
    missing = [
        f"view {view} has no row in {split}"
        for view in config.views
        for split in counts.clean
        if not view_rows[view][split]
    ]
    report: Report = {
        "level": config.level,
        "rows_in": sum(file["rows_in"] for file in counts.files.values()),
        "rows_clean": dict(counts.clean),
        "rows_quarantined": sum(counts.reasons.values()),
        "reasons": dict(counts.reasons),
        "examples": counts.examples,
        "files": {name: dict(file) for name, file in counts.files.items()},
        "views": {view: dict(rows) for view, rows in view_rows.items()},
        "blanked": dict(counts.blanked),
        "cleaned": {name: dict(changes) for name, changes in counts.cleaned.items() if changes},
        "warnings": [*warnings, *tell_leaks(leaks), *sorted(missing)],
    }
    if leaks:
        report["leaks"] = leaks
    if counts.parts:
        report["parts"] = {part: dict(rows) for part, rows in counts.parts.items()}
    return report


def _find_problem(
    report: Report,
    config: ValidationConfig,
    seen: Notes,
) -> str | None:
    """Say why the data as a whole cannot be used; None where it can."""
    rows = report["rows_in"]
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(report["reasons"].items()))
    why = f"{rows} rows read; in quarantine: {reasons or 'none'}"
    if not report["rows_clean"]:
        return f"no valid rows ({why})"
    if unknown_parts := sorted(set(config.labels) - {""} - seen.parts):
        there = ", ".join(report.get("parts", {})) or "none"
        return f"labels names part {unknown_parts[0]!r}, but no row does; the parts are: {there}"
    # An empty validation split is fine for someone who has switched validation off.
    needed = seen.splits if config.split.val else seen.splits - {"val"}
    if empty := sorted(needed - set(report["rows_clean"])):
        return (
            f"split {empty[0]} is given but has no valid row ({why}); mend it, "
            "or leave it out of the source"
        )
    for view, split_rows in report["views"].items():
        if not split_rows:
            return f"view {view} has no valid row ({why})"
    lost = report["rows_quarantined"] - report["reasons"].get("duplicate_id", 0)
    for leak in report.get("leaks", []):
        if config.leaks.refuses(leak["what"]):
            one, other = leak["examples"][0]["row"], leak["examples"][0]["other"]
            return (
                f"{leak['what']} of {leak['rows']} of {leak['of']} rows of {leak['split']} are in "
                f"{leak['other']} too, such as row {one['row']} of {one['file']}, which is row "
                f"{other['row']} of {other['file']}; validate.leaks.{leak['what']} refuses that"
            )
    if lost > config.max_dropped_share * rows:
        return (
            f"{lost} of {rows} rows lost to faults, more than max_dropped_share "
            f"{config.max_dropped_share} allows ({why})"
        )
    return None
