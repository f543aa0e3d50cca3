"""The canonical columns of raw tables: what every source brings its data into."""

import pyarrow as pa

CANONICAL = {
    "sample_id": pa.string(),
    "group": pa.string(),
    "split": pa.string(),
    "image": pa.binary(),
    "caption": pa.string(),
    "question": pa.string(),
    "answer": pa.string(),
}

SPLITS = ("train", "val", "test")
