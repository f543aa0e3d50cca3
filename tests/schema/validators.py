"""The schemas of this checkout, asked by a library that follows the standard."""

from typing import Any

from jsonschema import Draft7Validator
from referencing import Registry, Resource

from plumbline.schema.documents import schemas

SCHEMAS = schemas()
_LINKED: Any = Registry().with_resources(
    [(name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()]
)


def refusals(name: str, value: object) -> list[str]:
    """What a schema, by the name of its file, has against a value."""
    found = Draft7Validator(SCHEMAS[name], registry=_LINKED).iter_errors(value)
    return [f"{list(error.absolute_path)}: {error.message}" for error in found]
