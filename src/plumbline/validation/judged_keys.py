"""Are the keys of rows usable: sample_id, group, split and part?"""

import numpy as np
import pyarrow as pa

from plumbline.data.byte_columns import DistinctCells, distinct_cells
from plumbline.names import RULE, is_name
from plumbline.validation.digests import Bools
from plumbline.validation.faults import Fault
from plumbline.validation.judged import Judged
from plumbline.validation.splits import SPLIT_CODES
from plumbline.validation.text_check import is_blank, plain_texts

MAX_KEY_BYTES = 2**16
"""A longer sample_id, group or part is refused; ids of some thousand characters are not."""

_NULL_ID = {-1: Fault("missing_id", "null")}


def judge_key(batch: pa.RecordBatch, name: str) -> Judged:
    """Judge a column of keys, as if all were null where it is not there."""
    if name not in batch.schema.names:
        none = np.zeros(0, np.int64)
        cells = DistinctCells(np.full(batch.num_rows, -1), np.zeros(0, np.uint8), none, none)
        return Judged(cells.row_value, cells, {})
    cells = distinct_cells(batch.column(name))
    doubtful = np.ones(len(cells.starts), bool)
    if name in ("sample_id", "group"):
        doubtful = ~plain_texts(cells, MAX_KEY_BYTES)
    faults = dict(_NULL_ID) if name == "sample_id" else {}
    for at in np.flatnonzero(doubtful).tolist():
        value = cells.value(at) if cells.lengths[at] <= MAX_KEY_BYTES else None
        if fault := _judge(name, value):
            faults[at] = fault
    return Judged(cells.row_value, cells, faults)


def has_group(cells: DistinctCells) -> Bools:
    """Which distinct values name a group: those with more than blanks, [values]."""
    named = plain_texts(cells, MAX_KEY_BYTES)
    for at in np.flatnonzero(~named).tolist():
        named[at] = bool(cells.value(at).strip())
    return named


def _judge(name: str, value: bytes | None) -> Fault | None:
    if name == "split":
        known = value is not None and value.decode("ascii", "replace") in ("", *SPLIT_CODES)
        shown = "a long text" if value is None else repr(value.decode("utf-8", "replace")[:40])
        return None if known else Fault("bad_split", f"{shown} is none of train, val and test")
    if value is None:
        return Fault("unsafe_id", f"{name}: longer than {MAX_KEY_BYTES} bytes")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault("bad_encoding", f"{name}: not UTF-8 at byte {error.start}: {error.reason}")
    if name == "part" and text and not is_name(text):
        # Parts name files, heads and figures.
        return Fault("unsafe_id", f"part: {text[:40]!r} is no name: {RULE}")
    if name == "sample_id" and is_blank(text):
        return Fault("missing_id", "only blanks or invisible characters" if text else "empty")
    return None
