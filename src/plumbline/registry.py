"""Tables from a name in a setting to what it stands for; a plugin adds a line from outside."""

import difflib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Annotated, Any, Generic, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from plumbline.errors import ConfigError
from plumbline.imports import importing

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for, in the order of their registration."""

    def __init__(self, what: str) -> None:
        """`what` names an entry in messages, such as "task kind"."""
        self._what = what
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Add a name.

        Raises:
            ConfigError: it is taken by something else.
        """
        if self._entries.get(name, entry) != entry:
            raise ConfigError(f"{self._what} {name!r} is registered twice")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        """Look a name up.

        Raises:
            ConfigError: it is unknown; the text gives the nearest one.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"{self._what} {name!r} is unknown{meant} (there is {', '.join(self._entries)})"
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entries(self) -> dict[str, T]:
        """All names with what they stand for."""
        return dict(self._entries)


class _Table(Protocol):
    """A registry of settings classes, whichever their base is."""

    def __iter__(self) -> Iterator[str]: ...

    def entries(self) -> Mapping[str, type[BaseModel]]: ...


class OneOf:
    """Marks a settings field that holds one of the registered settings classes, told by a tag.

    `field: Annotated[Config, OneOf(REGISTRY, "source")]`: every registered class has a field of
    the tag's name that is a `Literal` of its own name. Offered are the subclasses of the annotated
    class that are registered when a value is validated, so a plugin may come after the field.
    """

    def __init__(self, registry: "_Table", tag: str) -> None:
        """Choose among the classes of `registry` by the value of the field `tag`."""
        self.registry, self.tag = registry, tag

    def __get_pydantic_core_schema__(
        self, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Validate as the member that the tag names; errors say where in it."""
        adapters: dict[tuple[str, ...], TypeAdapter[object]] = {}

        def validate(value: object) -> object:
            names = tuple(self.registry)
            if names not in adapters:
                # A class that is known when this runs: to a type checker it is no type.
                marked: type[BaseModel] = Annotated[source, _Choices(self)]  # type: ignore[assignment]
                adapters[names] = TypeAdapter(marked)
            return adapters[names].validate_python(value)

        return core_schema.no_info_plain_validator_function(validate)


class _Choices:
    """The members of a `OneOf` as they are registered now."""

    def __init__(self, field: OneOf) -> None:
        self._field = field

    def __get_pydantic_core_schema__(
        self, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {
            name: handler.generate_schema(entry)
            for name, entry in self._field.registry.entries().items()
            if issubclass(entry, source)
        }
        return core_schema.tagged_union_schema(choices=choices, discriminator=self._field.tag)


class _Names(Protocol):
    """A registry of anything."""

    def __getitem__(self, name: str) -> object: ...


def name_in(registry: _Names) -> AfterValidator:
    """Mark a settings field that holds the name of an entry.

    `field: Annotated[str, name_in(REGISTRY)]`; registered may also be what a plugin adds later.
    """

    def check(name: str) -> str:
        check_known(registry, name)
        return name

    return AfterValidator(check)


def check_known(registry: _Names, *names: str) -> None:
    """Check settings that name entries, without loading what these stand for.

    Raises:
        ValueError: one is unknown; the text gives the nearest one.
    """
    try:
        for name in names:
            registry[name]
    except ConfigError as error:
        raise ValueError(str(error)) from None


PLUGIN_PLACE = re.compile(r"plugins(\.[A-Za-z_]\w*)+:[A-Za-z_]\w*")
"""A name in a module of the user's own."""


def _of_plugins(place: str) -> str:
    if not PLUGIN_PLACE.fullmatch(place):
        raise ValueError(f"{place!r} is no class of the project's plugins: plugins._net:Net is one")
    return place


PluginPlace = Annotated[str, AfterValidator(_of_plugins)]
"""A setting that names code: of the project's own plugins alone, whose files are in the key of the
stage that reads the setting."""


def load_attribute(place: str) -> Any:
    """Import `package.module:name`; how a torch-free table names what needs torch.

    Which type that is, the table's own documentation says, and whoever loads it.

    Raises:
        ConfigError: there is no such module or name.
    """
    module, _, name = place.partition(":")
    try:
        # What is there already is not loaded: nothing of a running training is to be passed over.
        with nullcontext() if module in sys.modules else importing():
            found = importlib.import_module(module)
        return getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{place}: cannot be imported ({error})") from None
