"""Sort every row of a raw table into clean tables or quarantine, and account for each of them.

Two passes stream the input. The first judges each row on its own, in several processes, and notes a
verdict on disk; SQL then settles splits, repeated ids and leaks between splits; the second writes
the tables. So memory does not grow with the number of rows, and the output depends neither on how
rows are batched nor on how many processes judge them.
"""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from plumbline.data.columns import CANONICAL, CONTENT, KEYS
from plumbline.data.parquet import (
    BATCH_ROWS,
    check_schema,
    count_rows,
    declared_splits,
    iter_encoded_batches,
    list_parquet,
)
from plumbline.engines.base import Engine
from plumbline.engines.local import LocalEngine
from plumbline.errors import DataError
from plumbline.names import alike
from plumbline.tracking.progress import tracked
from plumbline.validation.filing import EXAMPLES, Counts, RowFiler
from plumbline.validation.judging import check_parts, medium_group
from plumbline.validation.kept import Kept, forget_others, notes_folder
from plumbline.validation.leaks import Leak, SharedTexts, describe_leaks, tell_leaks
from plumbline.validation.near import NearRows
from plumbline.validation.notes import Notes
from plumbline.validation.pass_one import PassOne, with_channels
from plumbline.validation.report import Report, check_sums
from plumbline.validation.rules import make_rules
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.shards import cut_shards
from plumbline.validation.splits import PRIORITY, hash_unit
from plumbline.validation.verdicts import VerdictStore


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
    batch_rows: int = BATCH_ROWS,
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
    with (
        TemporaryDirectory(prefix=".verdicts-", dir=quarantine) as folder,
        VerdictStore(Path(folder)) as store,
    ):
        near = NearRows(store, config.leaks)
        config = with_channels(paths, config, columns, batch_rows)
        with notes_folder(kept, config, Path(folder)) as place:
            judging = PassOne(names, columns, config, place, batch_rows)
            seen = _judge_rows(paths, judging, engine or LocalEngine(), store, near)
        warnings = [*_settle(store, near, config, seen.splits), *_tell_lines(seen)]
        with (
            closing(SharedTexts(Path(folder) / "texts.sqlite", columns)) as texts,
            closing(
                RowFiler(
                    *(clean, quarantine, make_rules(config, columns), store.read()),
                    *(_file_starts(paths), texts),
                    has_parts=bool(seen.parts),
                )
            ) as filer,
        ):
            _file_rows(paths, names, filer, batch_rows)
            leaks = [*_find_leaks(store, texts, filer), *near.leaks(EXAMPLES, filer.place)]
        warnings += filer.counts.labels.warnings() + _alike_parts(seen.parts)
        report = _describe(config, filer.counts, store, leaks, warnings)
        check_sums(report, store.count_rows(), raw)
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


def _find_leaks(store: VerdictStore, texts: SharedTexts, filer: RowFiler) -> list[Leak]:
    """What stands in several splits once all rows are where they belong."""
    rows = [
        leak
        for what in ("media", "texts")
        for leak in describe_leaks(what, store.find_shared(what, EXAMPLES), filer.place)
    ]
    return [*rows, *texts.leaks()]


def _tell_lines(seen: Notes) -> list[str]:
    lines = sum(seen.lines.values())
    return [f"decoders wrote {lines} lines about media to stderr, not shown here"] * bool(lines)


def _alike_parts(parts: AbstractSet[str]) -> list[str]:
    return [
        f"parts {one} and {other} differ by case only: some file systems keep one file for both"
        for one, other in alike(parts)
    ]


def _judge_rows(
    paths: Sequence[Path],
    judging: PassOne,
    engine: Engine,
    store: VerdictStore,
    near: NearRows,
) -> Notes:
    """Run pass one into the store; what it noted of all rows together, and files of splits."""
    shards = [shard for path in paths for shard in cut_shards(path)]
    files = judging.run(shards, engine)
    pairs = zip(shards, files, strict=True)
    rows = sum(shard.rows for shard in shards)
    seen, used, start = Notes(splits=set(declared_splits(paths))), [], 0
    for shard, file in tracked(pairs, "judging", rows, "rows", lambda pair: pair[0].rows):
        notes = Notes.read(file)
        if notes is None or len(notes.rows) != shard.rows:
            raise DataError(f"{shard.path}: changed while it was validated; run again")
        _store_notes(notes, start, store, near)
        seen.splits |= notes.splits
        seen.parts |= notes.parts
        seen.lines |= notes.lines
        check_parts(seen.parts)
        used.append(file)
        start += shard.rows
    near.remember(judging.image_prints())
    forget_others(used, judging.folder)
    return seen


def _store_notes(notes: Notes, start: int, store: VerdictStore, near: NearRows) -> None:
    store.add_rows(notes.rows, start)
    store.add_more_media((start + number, digest) for number, digest in notes.more)
    contents = [row.content for row in notes.rows]
    near.remember((contents[number] or b"", value) for number, value in notes.prints)


def _file_starts(paths: Sequence[Path]) -> dict[str, int]:
    """The number of each file's first row."""
    starts, total = {}, 0
    for path in paths:
        starts[path.name] = total
        total += count_rows(path)
    return starts


def _file_rows(paths: Sequence[Path], names: Sequence[str], filer: RowFiler, rows: int) -> None:
    for path in paths:
        row = 0
        batches = iter_encoded_batches(path, names, rows)
        for batch in tracked(batches, f"filing {path.name}", count_rows(path), "rows", len):
            filer.file_rows(path.name, row, batch)
            row += batch.num_rows


def _settle(
    store: VerdictStore, near: NearRows, rules: ValidationConfig, given: AbstractSet[str]
) -> list[str]:
    """Decide splits, repeated ids and leaks; return what the user should know of it."""
    warnings: list[str] = []
    config = rules.split
    drop = {"media": rules.leaks.media == "drop", "texts": rules.leaks.texts == "drop"}
    store.join_places(lambda medium: hash_unit(medium_group(medium), config.seed))
    pooled = store.pool_unsplit_rows()
    if given and pooled:
        warnings.append(f"{pooled} rows bring no split, though others do: they count as train")
    store.drop_conflicts(**drop)
    count = 0
    if not given and config.test:
        count = store.draw_from_train("test", config.test, 0)
        warnings.append(f"no split is given: {count} rows drawn for test by a hash of the group")
    if "val" not in given and config.val:
        drawn = store.draw_from_train("val", config.val, config.min_rows)
        what = "validation split" if given else "split"
        warning = f"no {what} is given: {drawn} rows drawn for val by a hash of the group"
        if drawn < config.min_rows:
            warning += f", fewer than the {config.min_rows} asked for, so that train keeps half"
        warnings.append(warning)
        count += drawn
    if count:
        store.drop_conflicts(**drop)  # of two groups with one image, one may have been drawn
    near.settle()
    if shared := store.count_shared_groups():
        warnings.append(f"groups with rows in more than one of the given splits: {shared}")
    return warnings


def _describe(
    config: ValidationConfig,
    counts: Counts,
    store: VerdictStore,
    leaks: list[Leak],
    warnings: list[str],
) -> Report:
    view_rows: dict[str, Counter[str]] = {view: Counter() for view in config.views}
    for code, mask, rows in store.count_views():
        for bit, view in enumerate(config.views):
            if mask >> bit & 1:
                view_rows[view][PRIORITY[code]] += rows
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
