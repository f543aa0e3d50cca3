"""The README of a bundle; its words come from the kind of model, never from the data."""

import json
import shlex
import string
from collections.abc import Iterator, Mapping
from pathlib import Path

from plumbline.export.format_writers import FormatResult, size_of
from plumbline.export.formats import FORMATS
from plumbline.export.plan import FILE, Readme

TEMPLATE = Path(__file__).parent / "runtime" / "README.md"


def readme_text(readme: Readme, formats: Mapping[str, FormatResult], bundle: Path) -> str:
    """The README of a bundle, whose graphs lie in it already."""
    place = f"selftest/0{readme.suffix}"
    places: dict[object, object] = {FILE: place, (FILE,): [place]}
    example = {
        name: places.get(tuple(value) if isinstance(value, list) else value, value)
        for name, value in readme.example.items()
    }
    flags = [
        f"--{name.replace('_', '-')} {shlex.quote(place if value == [place] else str(value))}"
        for name, value in example.items()
    ]
    named = json.dumps(place)
    code = {
        how: ", ".join(
            f'"{name}": {json.dumps(value).replace(named, form)}' for name, value in example.items()
        )
        for how, form in (
            ("python", f"Path({named}).read_bytes()"),
            ("json", f"base64.b64encode(Path({named}).read_bytes()).decode()"),
        )
    }
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=readme.title,
        answer=readme.answer,
        commands=f"python inference.py {' '.join(flags)}",
        line=json.dumps(example),
        python=f"{{{code['python']}}}",
        json=f"{{{code['json']}}}",
        graphs="\n".join([*_rows(readme.graphs, formats), *_files(readme.files)]),
        precision="".join(f"{line}\n" for line in _precision(formats, bundle)),
    )


def _rows(graphs: Mapping[str, str], formats: Mapping[str, FormatResult]) -> Iterator[str]:
    """What the README says of the files of each format: of the default what each graph does."""
    default, *others = formats
    for part, text in graphs.items():
        yield f"| `{formats[default].written.parts[part]}` | {text} |"
    for name in others:
        files = ", ".join(f"`{file}`" for file in formats[name].written.parts.values())
        what = FORMATS[name].loses or "the same in another format"
        yield f"| {files} | {what}: `--format {name}` |"


def _files(files: Mapping[str, str]) -> Iterator[str]:
    """What the README says of files of the kind's own."""
    yield from (f"| `{file}` | {text} |" for file, text in files.items())


def _precision(formats: Mapping[str, FormatResult], bundle: Path) -> Iterator[str]:
    """What formats of lower precision cost; nothing where there are none."""
    costs = {name: result.cost for name, result in formats.items() if result.cost}
    if not costs:
        return
    first = next(iter(costs.values()))
    metric, agreement = first["metric"].replace("_", " "), f"{first['decision']}_agreement"
    yield "## Smaller graphs"
    yield "A smaller format answers otherwise now and then. What that costs was measured through"
    yield f"`inference.py` on {first['samples']} samples of the split `{first['split']}`, of which"
    yield f"the model itself has {metric} {first['checkpoint']}:"
    yield ""
    yield f"| `--format` | bytes | {metric} | {first['decision']} agreement |"
    yield "|---|---|---|---|"
    for name, result in formats.items():
        row = f"| `{name}` | {size_of(result.written, bundle):,} |"
        if cost := result.cost:
            yield f"{row} {cost['value']} | {cost['agreement']} |"
        elif parity := result.parity:
            difference = parity[f"{first['metric']}_difference"]
            yield f"{row} within {difference:g} | {parity[agreement]} |"
    yield ""
    yield from (f"`{name}`: {FORMATS[name].loses}." for name in costs)
    yield ""
