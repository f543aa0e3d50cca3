"""Settings classes as JSON Schema, with what pydantic's own cannot say: tables that plugins extend.

There are two strictnesses. `params.yaml` is whole, so what has no default is required. A file below
`conf/` is a part that Hydra lays over others: nothing is required in it, and any value may be an
interpolation such as `${seed}`.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as bounds
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from plumbline.config import Config
from plumbline.registry import OneOf, Registry
from plumbline.schema.meanings import meaning_of, meaning_of_class

Schema = dict[str, Any]
"""A JSON Schema, of draft 7."""

INTERPOLATION = {"type": "string", "pattern": r"^(\$\{|\?\?\?$)"}
"""What OmegaConf puts another value in for."""

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
_BOUNDS = {
    bounds.Ge: ("ge", "minimum"),
    bounds.Gt: ("gt", "exclusiveMinimum"),
    bounds.Le: ("le", "maximum"),
    bounds.Lt: ("lt", "exclusiveMaximum"),
}


class Describer:
    """Makes schemas of settings classes, each class once, under `definitions`."""

    def __init__(self, *, partial: bool) -> None:
        """`partial`: for files below conf/, in place of params.yaml."""
        self.partial = partial
        self.definitions: dict[str, Schema] = {}
        self._classes: dict[str, type[BaseModel]] = {}

    def group(self, model: type[BaseModel]) -> Schema:
        """The schema of a settings class; a class made for one kind of work is written in place."""
        if model.__doc__ is None:
            return self._object(model)
        name = model.__name__.removesuffix("Config")
        if self._classes.setdefault(name, model) is not model:
            raise ValueError(f"{name} is the name of two settings classes")
        if name not in self.definitions:
            self.definitions[name] = {}  # for classes that hold themselves
            self.definitions[name] = self._object(model)
        return {"$ref": f"#/definitions/{name}"}

    def setting(self, model: type[BaseModel], name: str) -> Schema:
        """The schema of one field, with its default and its meaning."""
        info = model.model_fields[name]
        schema = self.value(info.annotation, info.metadata)
        if meaning := meaning_of(model, name):
            schema = {**schema, "description": meaning}
        default = info.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            default = default.model_dump(mode="json")
        if default is not PydanticUndefined:
            schema = {**schema, "default": default}
        return schema

    def value(self, annotation: object, marks: Sequence[object] = ()) -> Schema:
        """The schema of a value of a type, with the marks that `Annotated` or `Field` add."""
        schema = self._value(annotation, marks)
        if not self.partial or schema in ({}, {"type": "string"}):
            return schema
        return {"if": INTERPOLATION, "else": schema}

    def mapping(self, values: Schema) -> Schema:
        """Names of the user's own, each with a value."""
        return {"type": "object", "additionalProperties": values}

    def choice(self, name: str, tag: str, choices: Mapping[str, Schema]) -> Schema:
        """One of several groups, told apart by the value of `tag`; a definition called `name`."""
        kinds: list[Schema] = [
            {"if": _has(tag, value), "then": schema} for value, schema in choices.items()
        ]
        if self.partial:  # the file that it is laid over has the tag
            absent = {"not": {"required": [tag]}}
            kinds.append({"if": absent, "then": {"anyOf": list(choices.values())}})
        tags = {
            "enum": list(choices),
            "description": "Which one; what stands beside it are the settings of this one.",
        }
        whole: Schema = {"type": "object", "properties": {tag: tags}, "allOf": kinds}
        if not self.partial:
            whole["required"] = [tag]
        return self.define(name, whole)

    def define(self, name: str, schema: Schema) -> Schema:
        """A definition of this name; gives the reference to it."""
        self.definitions[name] = schema
        return {"$ref": f"#/definitions/{name}"}

    def of_settings(self, properties: Mapping[str, Schema], description: str = "") -> Schema:
        """A group with these settings and no others; without a default one is required."""
        schema: Schema = {"type": "object", "additionalProperties": False}
        if description:
            schema["description"] = description
        schema["properties"] = dict(properties)
        required = [name for name, inner in properties.items() if "default" not in inner]
        if required and not self.partial:
            schema["required"] = required
        return schema

    def _object(self, model: type[BaseModel]) -> Schema:
        settings = {name: self.setting(model, name) for name in model.model_fields}
        return self.of_settings(settings, meaning_of_class(model))

    def _value(self, annotation: object, marks: Sequence[object]) -> Schema:
        arguments, origin = get_args(annotation), get_origin(annotation)
        if origin is Annotated:
            inner = [part for mark in arguments[1:] for part in _flat(mark)]
            return self._value(arguments[0], [*inner, *marks])
        for mark in marks:
            if isinstance(mark, OneOf):
                return self._one_of(annotation, mark)
        if isinstance(annotation, type) and issubclass(annotation, Config):
            return self.group(annotation)
        if origin in (Union, UnionType):
            return self._union(arguments, marks)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is list:
            items = self.value(arguments[0])
            return {"type": "array", "items": items, **_limits(marks, "minItems", "maxItems")}
        if origin is dict:
            names = self._value(arguments[0], ())
            values = self.mapping(self.value(arguments[1]))
            return values if names == {"type": "string"} else {**values, "propertyNames": names}
        if annotation not in _PLAIN:
            return {}  # object and JsonValue: anything
        plain = {"type": _PLAIN[annotation], **_limits(marks, "minLength", "maxLength")}
        return {**plain, **_names(marks)}

    def _one_of(self, base: object, mark: OneOf) -> Schema:
        assert isinstance(base, type)
        name = base.__name__.removesuffix("Config")
        if name not in self.definitions:
            self.definitions[name] = {}  # for sources of parts, which are sources
            found = mark.registry.entries().items()
            choices = {tag: self.group(cls) for tag, cls in found if issubclass(cls, base)}
            self.choice(name, mark.tag, choices)
        return {"$ref": f"#/definitions/{name}"}

    def _union(self, members: Sequence[object], marks: Sequence[object]) -> Schema:
        # Bounds beside a union with null are those of the other member.
        schemas = [self._value(m, () if m is NoneType else marks) for m in members]
        return {"anyOf": schemas}


def _has(tag: str, value: str) -> Schema:
    return {"properties": {tag: {"const": value}}, "required": [tag]}


def _flat(mark: object) -> Iterator[object]:
    """What a mark says, of which a `Field(...)` holds several."""
    yield from mark.metadata if isinstance(mark, FieldInfo) else (mark,)


def _limits(marks: Sequence[object], shortest: str, longest: str) -> Schema:
    found: Schema = {}
    for mark in marks:
        if isinstance(mark, bounds.MinLen):
            found[shortest] = mark.min_length
        elif isinstance(mark, bounds.MaxLen):
            found[longest] = mark.max_length
        elif type(mark) in _BOUNDS:
            attribute, keyword = _BOUNDS[type(mark)]
            found[keyword] = getattr(mark, attribute)
    return found


def _names(marks: Sequence[object]) -> Schema:
    """The entries that a name may be of, where a mark of `name_in` holds a table of them.

    The mark keeps the table to itself: a door to it in `plumbline.registry` would be code of every
    stage, and this is none.
    """
    for mark in marks:
        if isinstance(mark, AfterValidator):
            held = inspect.getclosurevars(mark.func).nonlocals.get("registry")
            if isinstance(held, Registry):
                return {"enum": list(held)}
    return {}
