"""Decoding of media that validation has passed: what fails all the same is one line."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from plumbline.data.undecodable import UndecodableError
from plumbline.errors import DataError


@contextmanager
def decoding(what: str, cell: bytes) -> Iterator[None]:
    """Name the cell, and the remedy, where a decoder refuses it.

    Raises:
        DataError: it cannot be decoded, though validation let it pass.
    """
    try:
        yield
    except UndecodableError as error:
        digest = hashlib.sha256(cell).hexdigest()
        raise DataError(
            f"the {what} with SHA-256 {digest[:16]} cannot be decoded ({error}); set "
            "validate.level of the dataset to full, which leaves such rows out; if it is, the "
            "decoders have changed since: dvc repro -f validate@DATASET"
        ) from None
