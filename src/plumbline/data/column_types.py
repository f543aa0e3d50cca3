"""Which types of Arrow hold the same values, however they are encoded."""

import pyarrow as pa


def same_values(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column of one type will do where another is expected; one of nulls always does."""
    return pa.types.is_null(found) or _family(found) == _family(expected)


def _family(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    for name, tests in {
        "string": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        "binary": (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        ),
        "integer": (pa.types.is_integer,),
        "floating": (pa.types.is_floating,),
    }.items():
        if any(test(kind) for test in tests):
            return name
    return str(kind)
