"""From the decoders' errors to those of a request."""

from collections.abc import Iterator
from contextlib import contextmanager

from plumbline.data.undecodable import TooCostlyError, UndecodableError

from .files import InputError, TooLargeError


@contextmanager
def refused(field: str) -> Iterator[None]:
    """Say which field of a request cannot be decoded.

    Raises:
        TooLargeError: decoding would take more than the limits allow.
        InputError: the bytes are not what the field takes.
    """
    try:
        yield
    except TooCostlyError as error:
        raise TooLargeError(f"{field}: {error}") from None
    except UndecodableError as error:
        raise InputError(f"{field}: cannot be decoded ({error})") from None
