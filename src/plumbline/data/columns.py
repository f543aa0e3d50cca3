"""The columns that every dataset is brought into; each dataset has those that it needs."""

import pyarrow as pa

CANONICAL: dict[str, pa.DataType] = {
    "sample_id": pa.string(),
    "group": pa.string(),
    "split": pa.string(),
    "image": pa.binary(),
    "caption": pa.string(),
    "question": pa.string(),
    "answer": pa.string(),
}
"""Name -> type. Rows of one `group` (one image, one speaker) never part between splits."""

SPLITS = ("train", "val", "test")
