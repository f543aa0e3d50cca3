"""What pass two wrote last, kept so that a table that has grown is written on from there.

It counts only where all that was filed then stands in front and has been judged and decided alike.
"""

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

from plumbline.errors import CheckpointError
from plumbline.files import dump_json, link_or_copy, read_json, staged_folder
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
    """How many of the first shards lie filed in a folder; 0 where others do, none, or damaged.

    Args:
        folder: that `keep_filed` wrote.
        marks: of all shards now.
        has_parts: whether tables have the column `part`.
    """
    try:
        kept = read_json(folder / _MARKS)
        done = [str(mark) for mark in kept["marks"]]
        whole = kept["checksums"] == _checksums(folder) and kept["own"] == _own(done)
    except (OSError, CheckpointError, KeyError, TypeError):
        return 0
    same = kept["has_parts"] == has_parts and done == list(marks[: len(done)])
    return len(done) if whole and same else 0


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
            link_or_copy(table, place / table.name)  # whoever edits one is found out
        counts.write(place)
        facts = {"has_parts": has_parts, "marks": list(marks), "checksums": _checksums(place)}
        (place / _MARKS).write_text(dump_json({**facts, "own": _own(marks)}), encoding="utf-8")


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of each file, which finds what a disk has damaged."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != _MARKS:
            found[path.name] = 0
            with path.open("rb") as file:
                while part := file.read(2**20):
                    found[path.name] = zlib.crc32(part, found[path.name])
    return found


def _own(marks: Sequence[str]) -> int:
    return zlib.crc32("".join(marks).encode())
