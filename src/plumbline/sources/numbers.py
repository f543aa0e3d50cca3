"""Columns of numbers in somebody's Parquet, brought to the cells that canonical columns hold."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from plumbline.data.arrays import encode_array, encode_reason
from plumbline.data.byte_columns import as_bytes, decode_column, is_byte_type
from plumbline.data.columns import CONTENT, KEYS

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def can_convert(column: str, kind: pa.DataType) -> bool:
    """Whether `to_bytes` brings values of this type into a canonical column.

    Integers fit keys, labels and numbers, truth values labels, floats numbers, and lists of
    numbers, or of such lists, features.
    """
    if pa.types.is_dictionary(kind):
        return can_convert(column, kind.value_type)
    content = CONTENT.get(column)
    if content == "features":
        inner = kind.value_type if _is_list(kind) else None
        if inner is not None and _is_list(inner):
            inner = inner.value_type
        return inner is not None and (pa.types.is_integer(inner) or pa.types.is_floating(inner))
    if pa.types.is_integer(kind):
        return column in KEYS or content in ("label", "number")
    if pa.types.is_boolean(kind):
        return content == "label"
    return content == "number" and pa.types.is_floating(kind)


def to_bytes(column: str, values: pa.Array) -> pa.BinaryArray:
    """Bring values of a type that `can_convert` accepts, or of text or bytes, to bytes.

    Floats are written as Python writes them; lists that are no array become the reason.
    """
    values = decode_column(values)
    if is_byte_type(values.type):
        return as_bytes(values)
    if _is_list(values.type):
        return pa.array([_encode_list(cell) for cell in values], pa.binary())
    if pa.types.is_floating(values.type):
        texts = [None if v is None else repr(v).encode() for v in values.to_pylist()]
        return pa.array(texts, pa.binary())
    return values.cast(pa.string()).view(pa.binary())


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _LISTS)


def _encode_list(cell: pa.ListScalar) -> bytes | None:
    values = cell.values
    if values is None:
        return None
    if not _is_list(values.type):
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
