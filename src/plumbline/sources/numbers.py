"""Columns of numbers in somebody's Parquet, brought to the cells that canonical columns hold."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from plumbline.data.arrays import encode_array, encode_reason
from plumbline.data.byte_columns import as_bytes, decode_column, is_byte_type
from plumbline.data.columns import CONTENT, KEYS
from plumbline.errors import DataError

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def can_convert(column: str, kind: pa.DataType) -> bool:
    """Whether `to_bytes` brings values of this type into a canonical column.

    Integers fit keys, texts, labels and numbers, truth values labels, floats labels and numbers,
    and lists of numbers, or of such lists, features.
    """
    if pa.types.is_dictionary(kind):
        return can_convert(column, kind.value_type)
    content = CONTENT.get(column)
    if content == "features":
        inner = kind.value_type if is_list(kind) else None
        if inner is not None and is_list(inner):
            inner = inner.value_type
        return inner is not None and (pa.types.is_integer(inner) or pa.types.is_floating(inner))
    if pa.types.is_integer(kind):
        return column in KEYS or content in ("text", "label", "number")
    if pa.types.is_boolean(kind):
        return content == "label"
    return content in ("label", "number") and pa.types.is_floating(kind)


def to_bytes(column: str, values: pa.Array) -> pa.BinaryArray:
    """Bring values of a type that `can_convert` accepts, or of text or bytes, to bytes.

    Floats are written as Python writes them, those of labels as integers; lists that are no array
    become the reason.

    Raises:
        DataError: a label is a number that is not whole.
    """
    values = decode_column(values)
    if is_byte_type(values.type):
        return as_bytes(values)
    if is_list(values.type):
        return pa.array([_encode_list(cell) for cell in values], pa.binary())
    if pa.types.is_floating(values.type):
        write = _write_class if CONTENT.get(column) == "label" else repr
        texts = [None if v is None else write(v) for v in values.to_pylist()]
        return pa.array(texts, pa.string()).view(pa.binary())
    return values.cast(pa.string()).view(pa.binary())


def _write_class(value: float) -> str | None:
    """A whole number as table tools write integers beside empty cells, which become no number.

    Raises:
        DataError: it is not whole.
    """
    if math.isnan(value):
        return None
    if not value.is_integer():
        raise DataError(
            f"the column of label holds {value!r}: a class is a text or a whole number; map the "
            "column to value where it is measured, or write it as text"
        )
    return str(int(value))


def is_list(kind: pa.DataType) -> bool:
    """Whether cells of this type are lists, in any of the encodings of Arrow."""
    return any(test(kind) for test in _LISTS)


def _encode_list(cell: pa.ListScalar) -> bytes | None:
    values = cell.values
    if values is None:
        return None
    if not is_list(values.type):
        return _encode_flat(values, None)
    lengths = pc.list_value_length(values)
    if lengths.null_count:
        return encode_reason("not an array of numbers (holds null)")
    widths = np.unique(lengths.to_numpy())
    if len(widths) > 1:
        return encode_reason(
            f"not an array of numbers (rows of {widths[0]} to {widths[-1]} values)"
        )
    return _encode_flat(values.flatten(), len(values))


def _encode_flat(values: pa.Array, rows: int | None) -> bytes:
    if values.null_count:
        return encode_reason("not an array of numbers (holds null)")
    numbers = values.to_numpy(zero_copy_only=False)
    return encode_array(numbers if rows is None else numbers.reshape(rows, -1 if rows else 0))
