"""Pages of the docs made from the code: every setting, by where it lies in params.yaml.

`python -m tools.settings_reference` writes `docs/reference/settings*.md` and `schema/`; a test
compares. What is said of a setting stands below its field.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.schema.describe import Schema
from plumbline.schema.documents import schemas, write_schemas

FOLDER = Path("docs/reference")
NOTE = "<!-- Made by `python -m tools.settings_reference` from the texts below the fields. -->"


@dataclass(frozen=True)
class Page:
    """A page of the reference, and what it holds."""

    name: str
    title: str
    places: str
    """A regular expression for the places in params.yaml of its groups."""
    about: str


PAGES = (
    Page("data", "Data", r"(objects|weights|datasets)\b", "Where checkpoints and rows come from."),
    Page("export", "Export", r".*\.export\b", "What a bundle holds, accepts and serves."),
    Page(
        "training",
        "Training",
        r".*\.train\.(trainer|loader|adapters|task\.inputs)\b",
        "Batches, inputs, the loop, optimiser, schedule, adapters.",
    ),
    Page(
        "models",
        "Models",
        r".*\.train\.model\..",
        "Encoders, projectors and decoders that models are made of.",
    ),
    Page(
        "kinds", "Kinds of work", r".*", "What alignments and the kinds of task have of their own."
    ),
)
"""The first page whose places fit has a group."""

INDEX = """# Settings

{note}

Every setting of `params.yaml`, which `make params` composes from `conf/`: what may stand there,
its default, and what it means. Change `conf/`, or set one for a run:
`plumbline run -S tasks.vqa.train.trainer.epochs=2`. Anything else than what these pages say is
refused in one line before any work starts; what contradicts is listed in
[contradictions](../contradictions.md).

`<name>` stands for a name of your own: a key of `objects`, `weights`, `datasets`, `align` or
`tasks`.

{pages}

## In an editor

The same as JSON Schema lies in [`schema/`](../../schema/params.json), and the files of `conf/` name
theirs in their first line:

```yaml
# yaml-language-server: $schema=../../schema/tasks.json
```

An editor with a YAML language server (the YAML extension of VS Code, `yaml-language-server` for
Neovim, Helix and others) then completes settings, shows what they mean and underlines a wrong one.
`plumbline params` writes the schemas, with the kinds, sources and encoders of your plugins.

## At the top

{top}

```{{toctree}}
:hidden:

{tree}
```
"""


@dataclass
class Group:
    """A group of settings that stands under a heading."""

    schema: Schema
    places: list[str] = field(default_factory=list)
    own: str = ""
    """`name: value` that chooses it among others; "": nothing has to."""
    within: set[str] = field(default_factory=set)
    """The same of the groups that it is in."""

    @property
    def page(self) -> Page:
        """The page that it is on."""
        return next(page for page in PAGES if re.match(page.places, self.places[0]))

    @property
    def heading(self) -> str:
        """Its place as far as the page does not say it."""
        shared = any(place.startswith("tasks.") for place in self.places)
        place = self.places[0]
        if shared:
            place = re.sub(r"^(align|tasks)\.<name>\.(train\.)?", "", place) or place
        return f"{place}, {self.tag}" if self.tag else place

    @property
    def tag(self) -> str:
        """What chooses it or what it is in; "" where many things do."""
        keys = {tag.partition(": ")[0] for tag in self.within}
        if self.own or len(keys) != 1 or len(self.within) > 3:
            return self.own
        values = sorted(tag.partition(": ")[2] for tag in self.within)
        return f"{keys.pop()}: {_listed(values)}" if values[0] else ""

    @property
    def anchor(self) -> str:
        """Of its heading."""
        return re.sub(r"[^\w\- ]", "", self.heading.lower()).replace(" ", "-")


class Reference:
    """The settings of params.yaml, in groups."""

    def __init__(self, params: Schema) -> None:
        """Find all groups of a schema by their places."""
        self._definitions: Mapping[str, Schema] = params["definitions"]
        self._root = params
        self.groups: dict[str, Group] = {}
        for name, schema in params["properties"].items():
            self._find(schema, name)

    def _find(self, schema: Schema, place: str, tag: str = "") -> None:
        for inner, mapped in _inner(schema):
            self._find(inner, f"{place}.<name>" if mapped else place, tag)
        if "$ref" in schema:
            self._find_named(_name(schema), place, tag)
        elif "properties" in schema and "allOf" not in schema:
            for name, inner in schema["properties"].items():
                self._find(inner, f"{place}.{name}", tag)

    def _find_named(self, name: str, place: str, tag: str, *, chosen: bool = False) -> None:
        schema = self._definitions[name]
        if "allOf" in schema:
            key = next(iter(schema["properties"]))
            for choice in schema["allOf"]:
                value = choice["if"]["properties"][key]["const"]
                self._find_named(_name(choice["then"]), place, f"{key}: {value}", chosen=True)
            return
        group = self.groups.setdefault(name, Group(schema))
        if place.count(".parts.") > 1:  # sources of parts are sources
            return
        if chosen:
            group.own = tag
        group.within.add(tag)
        if place not in group.places:
            group.places.append(place)
        for key, inner in schema["properties"].items():
            self._find(inner, f"{place}.{key}", group.own or tag)

    def pages(self) -> dict[str, str]:
        """Name of a file -> its text."""
        return {"settings.md": self._index(), **{self._file(p): self._page(p) for p in PAGES}}

    def _index(self) -> str:
        shown = sorted(PAGES, key=lambda page: page.title)
        pages = "\n".join(f"- [{p.title}]({self._file(p)}): {p.about}" for p in shown)
        top = self._list(self._root, "settings.md")
        tree = "\n".join(f"settings-{page.name}" for page in shown)
        return INDEX.format(note=NOTE, pages=pages, top=top, tree=tree)

    def _page(self, page: Page) -> str:
        mine = [group for group in self.groups.values() if group.page == page]
        parts = [f"# Settings: {page.title.lower()}\n\n{NOTE}\n\n{page.about}"]
        parts += [self._section(group) for group in sorted(mine, key=lambda g: g.places[0])]
        return "\n\n".join(parts) + "\n"

    def _section(self, group: Group) -> str:
        places = ", ".join(f"`{place}`" for place in group.places)
        about = _paragraphs(group.schema.get("description", ""))
        lies = f"In params.yaml: {places}"
        lies += f", with `{group.tag}`." if group.tag else "."
        listed = self._list(group.schema, self._file(group.page))
        return "\n\n".join(filter(None, (f"## {_code(group)}", about, lies, listed)))

    def _list(self, schema: Schema, here: str, place: str = "") -> str:
        lines = []
        required = schema.get("required", ())
        for name, inner in schema["properties"].items():
            if "const" in inner or len(inner.get("enum", "ab")) == 1:
                continue  # what chooses the group, which its heading says
            what = [self._type(inner, here)]
            what += ["required"] if name in required else _default(inner)
            about = f" {escaped(inner['description'])}" if "description" in inner else ""
            lines.append(f"- **`{place}{name}`**: {', '.join(filter(None, what))}.{about}")
            if "properties" in inner and "allOf" not in inner:
                lines.append(self._list(inner, here, f"{place}{name}."))
        return "\n".join(filter(None, lines))

    def _type(self, schema: Schema, here: str) -> str:
        if "$ref" in schema:
            return self._link(_name(schema), here)
        if "anyOf" in schema:
            # Behind a list it would read as one of its values.
            members = sorted(schema["anyOf"], key=lambda inner: inner.get("type") in _NESTED)
            return " or ".join(self._type(inner, here) for inner in members)
        if "enum" in schema:
            return _one_of(schema["enum"])
        match schema.get("type"):
            case "array":
                return f"list{_range(schema, 'Items')}: {self._type(schema['items'], here)}"
            case "object" if isinstance(schema["additionalProperties"], dict):
                return f"mapping: {self._type(schema['additionalProperties'], here)} by name"
            case "object":
                return "group"
            case "string":
                return f"text{_range(schema, 'Length')}"
            case "boolean":
                return "`true` or `false`"
            case "null":
                return "`null`"
            case None:
                return "anything"
            case number:
                return f"{number}{_bounds(schema)}"

    def _link(self, name: str, here: str) -> str:
        schema = self._definitions[name]
        if "allOf" not in schema:
            return f"[{_code(self.groups[name])}]({self._target(name, here)})"
        links = [
            f"[`{value}`]({self._target(inner, here)})"
            for choice in schema["allOf"]
            for value in [next(iter(choice["if"]["properties"].values()))["const"]]
            for inner in [_name(choice["then"])]
        ]
        return _listed(links)

    def _target(self, name: str, here: str) -> str:
        group = self.groups[name]
        file = self._file(group.page)
        return f"{'' if file == here else file}#{group.anchor}"

    @staticmethod
    def _file(page: Page) -> str:
        return f"settings-{page.name}.md"


_NESTED = ("array", "object")


def _name(schema: Schema) -> str:
    """The definition that is referred to."""
    return str(schema["$ref"]).rpartition("/")[2]


def _inner(schema: Schema) -> Iterator[tuple[Schema, bool]]:
    """What stands within a value, and whether under a name or index of its own."""
    for inner in schema.get("anyOf", ()):
        yield inner, False
    if isinstance(schema.get("additionalProperties"), dict):
        yield schema["additionalProperties"], True
    if "items" in schema:
        yield schema["items"], False


def _bounds(schema: Schema) -> str:
    words = {
        "minimum": "from {}",
        "exclusiveMinimum": "above {}",
        "maximum": "to {}",
        "exclusiveMaximum": "below {}",
    }
    found = [text.format(_number(schema[key])) for key, text in words.items() if key in schema]
    return f" {' '.join(found)}".rstrip()


def _range(schema: Schema, of: str) -> str:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    if least is None and most is None:
        return ""
    if least == most:
        return f" of length {least}"
    said = [f"from {least}" if least is not None else "", f"to {most}" if most is not None else ""]
    return f" of length {' '.join(filter(None, said))}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _one_of(values: Sequence[object]) -> str:
    return _listed([f"`{_yaml(value)}`" for value in values])


def _listed(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _code(group: Group) -> str:
    """A heading; what stands in angle brackets would be HTML without being code."""
    return f"`{group.heading}`"


def _yaml(value: object) -> str:
    """A value as one writes it in YAML."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _default(schema: Schema) -> list[str]:
    # Those of a group stand in the group.
    value = schema.get("default")
    return [] if isinstance(value, dict) and value else [f"default `{_yaml(value)}`"]


def escaped(text: str) -> str:
    """A text whose signs are none of Markdown, but for what it marks as code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([<*\[\]])", r"\\\1", p) for p in pieces)


def _paragraphs(text: str) -> str:
    return re.sub(r"[ \t]*\n(?!\n)(?=[^\n])(?<!\n\n)", " ", text).replace("\n ", "\n\n")


def main(root: Path) -> None:
    """Write the pages and the schemas below a folder."""
    write_schemas(root)
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, text in Reference(schemas()["params.json"]).pages().items():
        (root / FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(*sys.argv[1:]))
