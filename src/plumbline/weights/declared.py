"""What the files of a checkpoint declare, checked where they are read: others wrote them."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from plumbline.errors import ConfigError

DeclaredT = TypeVar("DeclaredT")


def read_declared(schema: type[DeclaredT], file: Path) -> DeclaredT:
    """Read a file of JSON.

    Raises:
        ConfigError: it is not there, damaged, or has a value that is not followed.
    """
    try:
        return TypeAdapter(schema).validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_fault(error)}; it is not followed") from None


def check_declared(schema: type[DeclaredT], value: object, file: Path) -> DeclaredT:
    """Check a part of a file.

    Raises:
        ConfigError: it has a value that is not followed.
    """
    try:
        return TypeAdapter(schema).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_fault(error)}; it is not followed") from None


def first_fault(error: ValidationError) -> str:
    """Say where the first fault is and what it is, in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
