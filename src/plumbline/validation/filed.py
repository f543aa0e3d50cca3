"""What pass two wrote last, kept so that a table that has grown is written on from there.

It counts only where all that was filed then stands in front and has been judged and decided alike.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from plumbline.files import dump_json, read_json, staged_folder
from plumbline.validation.counts import Counts
from plumbline.validation.verdicts import Slice

FOLDER = "filed"
"""Below the folder of notes."""
_MARKS = "marks.json"


def mark_shard(notes: Path, file: str, row: int, decided: Slice) -> str:
    """Stand for a shard, where it lies, and all that has been decided of its rows.

    Args:
        notes: the file of its notes, whose name stands for what they say.
        file: name of the file that it is a part of.
        row: where it begins there.
        decided: of its rows.
    """
    digest = hashlib.blake2b(f"{notes.name} {row} {file}".encode(), digest_size=20)
    for column in decided:
        digest.update(column.tobytes())
    return digest.hexdigest()


def find_filed(folder: Path, marks: Sequence[str], *, has_parts: bool) -> int:
    """How many of the first shards lie filed in a folder; 0 where others do, or none.

    Args:
        folder: that `keep_filed` wrote.
        marks: of all shards now.
        has_parts: whether tables have the column `part`.
    """
    if not (folder / _MARKS).is_file():
        return 0
    kept = read_json(folder / _MARKS)
    same = kept["has_parts"] == has_parts and kept["marks"] == list(marks[: len(kept["marks"])])
    return len(kept["marks"]) if same else 0


def keep_filed(
    folder: Path, marks: Sequence[str], tables: Sequence[Path], counts: Counts, *, has_parts: bool
) -> None:
    """Keep tables and counts, in the place of those before, for the next run.

    Args:
        folder: for them.
        marks: of all shards that have been filed.
        tables: what was written, examples of rejected rows included.
        counts: of all rows.
        has_parts: as in `find_filed`.
    """
    with staged_folder(folder, digests=False) as place:
        for table in tables:
            shutil.copyfile(table, place / table.name)
        counts.write(place)
        facts = {"has_parts": has_parts, "marks": list(marks)}
        (place / _MARKS).write_text(dump_json(facts), encoding="utf-8")
