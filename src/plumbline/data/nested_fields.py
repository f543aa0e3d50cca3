"""Columns of Arrow tables by names that reach into structs, such as `image.bytes`."""

import pyarrow as pa
import pyarrow.compute as pc


def find_type(schema: pa.Schema, name: str) -> pa.DataType | str | None:
    """The type of a column, whose name may reach into structs; `twice` or None where not one is."""
    indices = schema.get_all_field_indices(name)
    if indices:
        return schema.field(indices[0]).type if len(indices) == 1 else "twice"
    top, *inner = name.split(".")
    if not inner or len(schema.get_all_field_indices(top)) != 1:
        return None
    found = schema.field(top).type
    for part in inner:
        if not pa.types.is_struct(found) or found.get_field_index(part) < 0:
            return None
        found = found.field(part).type
    return found


def pick_column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column of a batch, whose name may reach into structs."""
    if name in batch.schema.names:
        return batch.column(name)
    top, *inner = name.split(".")
    return pc.struct_field(batch.column(top), inner)
