"""Run a stage and record what it really reads: `python -m tools.trace_stage OUT.json STAGE [KEY]`.

It runs in the working folder as `python -m stages.STAGE KEY` does. OUT.json gets:
- `files`: files below the working folder that Python code opened for reading;
- `listed`: folders below it that were listed;
- `modules`: our modules that were loaded, with their files;
- `keys`: settings that were read, by their dotted key in params.yaml;
- `fields`: fields of settings that hold a value, as `Class.field`, and `fields_read`;
- `libraries`: installed distributions that our modules imported, and `indirect`, those that only
  other libraries did;
- `processes`: programs that were started, whose reads are not seen.

Libraries that open files by native code (pyarrow, safetensors, tokenizers, soundfile) are not
seen either: for those a test runs each stage in a folder that holds its declared inputs alone.
A validator reads settings before they are recorded, so what only a validator looks at counts as
unread; so does what is only stored with the outputs.
"""

import builtins
import importlib.metadata
import inspect
import json
import os
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

OURS = ("plumbline", "plugins", "stages")


class Recorder:
    """What a stage has read so far."""

    def __init__(self, root: Path) -> None:
        """Only what lies below `root` counts."""
        self._root = str(root) + os.sep
        self.files: set[str] = set()
        self.listed: set[str] = set()
        self.processes: set[str] = set()
        self.keys: set[str] = set()
        self.fields: set[str] = set()
        self.fields_read: set[str] = set()
        self._places: dict[int, Mapping[str, str]] = {}
        self._kept: list[Any] = []  # an id is good as long as its object lives

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take a note of an audit event; never raises, since that would stop the stage."""
        if event == "open" and not isinstance(arguments[0], int):
            flags = arguments[2]
            path = self._below(arguments[0])
            if path and flags & os.O_ACCMODE == os.O_RDONLY and os.path.isfile(path):  # noqa: PTH113
                self.files.add(path.removeprefix(self._root))
        elif event in ("os.listdir", "os.scandir") and not isinstance(arguments[0], int):
            path = self._below(arguments[0] or ".")
            if path and os.path.isdir(path):  # noqa: PTH112
                self.listed.add(path.removeprefix(self._root))
        elif event == "subprocess.Popen":
            self.processes.add(os.path.basename(os.fsdecode(arguments[0])))  # noqa: PTH119

    def _below(self, path: Any) -> str | None:
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return whole if whole.startswith(self._root) else None

    def watch(self, value: Any, key: str, sections: Mapping[str, str] | None = None) -> None:
        """Record reads of the settings in `value`, which stand at `key` of params.yaml.

        Args:
            value: settings, or a list or mapping that holds some.
            key: the dotted key.
            sections: field -> dotted key, where the fields do not stand below `key`.
        """
        if _is_settings(value):
            fields = vars(value)
            places = dict(sections or {name: f"{key}.{name}" for name in fields})
            self._places[id(value)] = places
            self._kept.append(value)
            for name, inner in fields.items():
                if name not in places:  # in no key, as it shapes nothing
                    continue
                self.watch(inner, places[name])
                if not (_holds_settings(inner) or _is_tag(value, name)):
                    self.fields.add(_field(value, name))
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                self.watch(inner, f"{key}.{name}")
        elif isinstance(value, list | tuple):
            for at, inner in enumerate(value):
                self.watch(inner, f"{key}.{at}")

    def read(self, settings: Any, name: str) -> None:
        """Note that the field `name` of some settings is read."""
        if place := self._places.get(id(settings), {}).get(name):
            self.keys.add(place)
            self.fields_read.add(_field(settings, name))

    def copied(self, settings: Any, copy: Any, replaced: Sequence[str]) -> None:
        """Watch a copy of settings as well, but for the fields that were replaced."""
        if places := self._places.get(id(settings)):
            kept = {name: place for name, place in places.items() if name not in replaced}
            self._places[id(copy)] = kept
            self._kept.append(copy)


def _is_settings(value: Any) -> bool:
    return hasattr(type(value), "model_fields")


def _holds_settings(value: Any) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value
    return _is_settings(value) or (
        isinstance(value, Mapping | list | tuple) and any(map(_is_settings, inner))
    )


def _is_tag(settings: Any, name: str) -> bool:
    """Whether a field can hold one value alone, and so only says which settings these are."""
    annotation = type(settings).model_fields[name].annotation
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def _field(settings: Any, name: str) -> str:
    """A field by the class that declares it."""
    owners = [c for c in type(settings).__mro__ if name in inspect.get_annotations(c)]
    return f"{owners[-1].__name__ if owners else type(settings).__name__}.{name}"


def watch_settings(recorder: Recorder) -> None:
    """Let every read of a stage's settings pass by the recorder."""
    import plumbline.stage
    from plumbline.config import Config

    parse, copy = plumbline.stage.parse_call, Config.model_copy

    def parse_call(spec: Any, arguments: Sequence[str]) -> Any:
        call = parse(spec, arguments)
        recorder.watch(call.config, "", spec.sections(call.key))
        return call

    def read(self: Any, name: str) -> Any:
        recorder.read(self, name)
        return object.__getattribute__(self, name)

    def model_copy(
        self: Any, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> Any:
        made = copy(self, update=update, deep=deep)
        recorder.copied(self, made, list(update or {}))
        return made

    plumbline.stage.parse_call = parse_call
    setattr(Config, "__getattribute__", read)  # noqa: B010
    setattr(Config, "model_copy", model_copy)  # noqa: B010


def our_modules(root: Path) -> dict[str, str]:
    """Loaded modules of ours with their files, relative to `root` where they lie below it."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.split(".")[0] in OURS and file:
            path = Path(file)
            inside = path.is_relative_to(root)
            found[name] = (path.relative_to(root) if inside else path).as_posix()
    return found


def watch_imports() -> set[str]:
    """The set that gets the top-level name of everything that a module of ours imports."""
    found: set[str] = set()
    do_import = builtins.__import__

    def watched(name: str, *rest: Any, **named: Any) -> Any:
        space = rest[0] if rest else named.get("globals")
        importer = str((space or {}).get("__name__", ""))
        if importer.split(".")[0] in (*OURS, "__main__"):
            found.add(name.split(".")[0])
        return do_import(name, *rest, **named)

    builtins.__import__ = watched
    return found


def distributions(modules: Iterable[str]) -> set[str]:
    """Installed distributions that modules come from, by their names in the form `a-b`."""
    owners = importlib.metadata.packages_distributions()
    names = {owner for name in modules for owner in owners.get(name.split(".")[0], [])}
    return {name.lower().replace("_", "-") for name in names}


def main(arguments: Sequence[str]) -> None:
    """Run the stage, then write the record, also of a stage that failed."""
    out, stage, *rest = arguments
    root = Path.cwd()
    sys.path[0] = str(root)
    sys.argv = [f"stages/{stage}.py", *rest]
    imported = watch_imports()
    import stages  # noqa: F401  # puts the checkout's own src in front

    recorder = Recorder(root)
    watch_settings(recorder)
    sys.addaudithook(recorder.audit)
    os._exit = sys.exit  # type: ignore[assignment]  # a stage that leaves has a record too
    try:
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
    finally:
        libraries = distributions(imported)
        record = {
            "files": sorted(recorder.files),
            "listed": sorted(recorder.listed),
            "modules": our_modules(root) | {f"stages.{stage}": f"stages/{stage}.py"},
            "keys": sorted(recorder.keys),
            "fields": sorted(recorder.fields),
            "fields_read": sorted(recorder.fields_read),
            "libraries": sorted(libraries),
            "indirect": sorted(distributions(list(sys.modules)) - libraries),
            "processes": sorted(recorder.processes),
        }
        Path(out).write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
