"""The columns that every dataset is brought into; each dataset has those that it needs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import pyarrow as pa

KEYS = ("sample_id", "group", "split", "part")
"""Columns that say which row it is, all text; the other columns are content.

Rows of one `group` (one image, one speaker) never part between splits. `part` names the member of
a dataset that holds several, each with labels of its own; sample_ids are unique within a part.
"""

Kind = Literal["image", "audio", "features", "text", "turns", "images", "label", "number"]

CONTENT: Mapping[str, Kind] = MappingProxyType(
    {
        "image": "image",
        "audio": "audio",
        "features": "features",
        "caption": "text",
        "question": "text",
        "answer": "text",
        "text": "text",
        "source": "text",
        "target": "text",
        "turns": "turns",
        "images": "images",
        "label": "label",
        "value": "number",
        "weight": "number",
    }
)
"""Content column -> what a cell holds, in the order in which clean tables have them.

image, audio: an encoded file; features: `plumbline.data.arrays` of [time, channels]; turns: a
conversation as `plumbline.data.turns` writes it; images: those that its turns show, as
`plumbline.data.image_lists` packs them; label: the name of a class; number: decimal text. `weight`
is how much the error of a row's value weighs.
"""

MEDIA = tuple(name for name, kind in CONTENT.items() if kind in ("image", "audio", "features"))
"""Columns of what is decoded to arrays; a row has one of them at most."""

SHOWN = (*MEDIA, "images")
"""Columns of media, the images of turns among them."""

TEXTS = tuple(name for name, kind in CONTENT.items() if kind == "text")
"""Columns of texts that are tokenised one by one; turns are as a whole."""

CANONICAL: Mapping[str, pa.DataType] = MappingProxyType(
    {name: pa.string() for name in KEYS}
    | {name: pa.binary() if name in SHOWN else pa.string() for name in CONTENT}
)
"""Name -> type in Parquet."""

MAX_CELL_BYTES = 2**26
"""No usable cell is larger. Of a larger one sources keep one byte more than this, and validation
refuses it for its length."""

SPLITS = ("train", "val", "test")
