"""What a cell of a content column holds, which decides how validation judges it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from plumbline.data.columns import CANONICAL

KEYS = ("sample_id", "group", "split")

Kind = Literal["image", "text"]

CONTENT: Mapping[str, Kind] = MappingProxyType(
    {name: "image" if name == "image" else "text" for name in CANONICAL if name not in KEYS}
)
"""Columns that a view may name, in the order in which clean tables hold them and faults rank."""
