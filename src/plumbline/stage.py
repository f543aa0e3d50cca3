"""The edge of every stage: command line in, exit code and one-line errors out."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from plumbline import paths
from plumbline.code_digest import CodeTree
from plumbline.config import Config, check_config, compose_yaml, pick, without_folders
from plumbline.disk_errors import describe_os_error, refused_write
from plumbline.errors import ConfigError, PlumblineError
from plumbline.files import dump_json, read_json
from plumbline.names import check_name
from plumbline.params import check_environment, describe_differences, list_differences
from plumbline.registry import PLUGIN_PLACE
from plumbline.text import one_line

logger = logging.getLogger(__name__)

CONFIG = "config.json"
"""Every stage's output holds its settings under this name."""

ConfigT = TypeVar("ConfigT", bound=Config, covariant=True)
"""A stage only gives its settings, so one of some settings is one of any."""

Sections = Callable[[str], Mapping[str, str]]
"""Key of the stage -> field of its settings -> dotted key in params.yaml.

The `params:` of the stage in dvc.yaml name the same keys; a test compares them.
"""


def _none(key: str) -> Mapping[str, str]:
    return {}


class _Kind(Config):
    kind: str


@dataclass(frozen=True)
class StageSpec(Generic[ConfigT]):
    """What a stage reads of params.yaml."""

    name: str
    schema: type[ConfigT]
    sections: Sections
    group: str | None = None
    """The mapping whose keys it runs for: weights, datasets, align or tasks; None: it runs once."""
    schema_of_kind: Callable[[str], type[ConfigT]] | None = None
    """Kind of the task -> `schema` with the settings of that kind; None: it serves all kinds."""
    roles: tuple[str, ...] = ()
    """The modules of its kind that it runs, beside those that its own code names."""
    unkeyed: Sections = _none
    """What it reads beside `sections` where it is there, and what shapes nothing that it writes:
    another value makes no stage run again, and is in no output."""

    def reads(self, key: str, params: Mapping[str, object]) -> Mapping[str, str]:
        """All that one run reads of params.yaml."""
        beside = self.unkeyed(key).items()
        there = {field: place for field, place in beside if _is_there(params, place)}
        return {**self.sections_in(key, params), **there}

    def schema_for(self, key: str, params: Mapping[str, object]) -> type[ConfigT]:
        """The schema of one run.

        Raises:
            ConfigError: the task is of an unknown kind.
        """
        if self.schema_of_kind is None:
            return self.schema
        kind = self._kind(key, params)
        try:
            return self.schema_of_kind(kind)
        except ConfigError as error:
            raise ConfigError(f"{self.sections(key)['kind']} = {kind!r}: {error}") from None

    def sections_in(self, key: str, params: Mapping[str, object]) -> dict[str, str]:
        """`sections`, but for those with defaults of their own that an entry leaves out.

        So entries that are older than a section go on as they did.
        """
        fields = self.schema.model_fields
        return {
            field: place
            for field, place in self.sections(key).items()
            if not isinstance(fields[field].default, Config) or _is_there(params, place)
        }

    def code(self, key: str, params: Mapping[str, object]) -> Path:
        """Where `digest_code` says which code one run has."""
        return paths.code(self.name, self._kind(key, params) if self.schema_of_kind else "")

    def _kind(self, key: str, params: Mapping[str, object]) -> str:
        return check_config(_Kind, {"kind": self.sections(key)["kind"]}, params).kind


def _is_there(params: Mapping[str, object], place: str) -> bool:
    above, _, name = place.rpartition(".")
    holder = pick(params, above)
    return isinstance(holder, Mapping) and name in holder


@dataclass(frozen=True)
class Call(Generic[ConfigT]):
    """One run of a stage."""

    stage: str
    key: str
    config: ConfigT
    unkeyed: frozenset[str] = frozenset()
    """Fields of the settings that shape no output."""

    @property
    def plain(self) -> dict[str, object]:
        """The resolved settings as plain JSON types: what is stored with the outputs."""
        return self.config.model_dump(mode="json")

    def store(self, out: Path, *, without: Iterable[str] = ()) -> None:
        """Put the settings beside what was made with them; nothing in them is of this machine.

        Args:
            out: the folder.
            without: sections that shape nothing in it, so that another value changes no byte.
        """
        left = {*self.unkeyed, *without}
        stored = {name: value for name, value in self.plain.items() if name not in left}
        (out / CONFIG).write_text(dump_json(without_folders(stored)), encoding="utf-8")

    def report(self, *figures: str, see: Path) -> None:
        """Say in one line what the stage did, once its outputs stand."""
        say_done(f"{self.stage} {self.key}".rstrip(), *figures, see=see)


def say_done(what: str, *figures: str, see: Path) -> None:
    """Say in one line what was done, and where to look; a figure that is empty is left out."""
    logger.info("%s: %s; see %s", what, ", ".join(filter(None, figures)), see)


def count(number: int, unit: str, units: str = "") -> str:
    """Say a number of things.

    >>> count(1, "row"), count(5000, "row"), count(2, "class", "classes")
    ('1 row', '5,000 rows', '2 classes')
    """
    return f"{number:,} {unit if number == 1 else units or unit + 's'}"


def each(counts: Mapping[str, int]) -> str:
    """Say numbers by name in brackets; nothing without any.

    >>> each({"train": 4000, "val": 12}), each({})
    (' (train 4,000, val 12)', '')
    """
    words = ", ".join(f"{name} {number:,}" for name, number in counts.items())
    return f" ({words})" if words else ""


def settings_text(
    spec: StageSpec[Config], key: str, params: Mapping[str, object], libraries: Sequence[str]
) -> str:
    """What a stage reads of params.yaml, by dotted key, with the versions of its libraries.

    Keys keep their order: heads and parts are built in it.
    """
    places = [*spec.sections_in(key, params).values(), *(f"versions.{name}" for name in libraries)]
    read = {place: pick(params, place) for place in dict.fromkeys(places)}
    if named := sorted(set(_plugins_in(read))):
        tree = CodeTree(Path.cwd())
        modules = [place.partition(":")[0] for place in named]
        read["code that settings name"] = tree.closure(modules).digests()
    return json.dumps(read, indent=1, ensure_ascii=False) + "\n"


def _plugins_in(value: object) -> Iterator[str]:
    """The names of a user's own code in settings."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _plugins_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from _plugins_in(each)
    elif isinstance(value, str) and PLUGIN_PLACE.fullmatch(value):
        yield value


def check_unchanged(
    spec: StageSpec[Config], key: str, params: Mapping[str, object], *, with_settings: bool = True
) -> None:
    """Refuse to run under settings or code other than those that the outputs are cached by.

    DVC compares files that `check_params` and `digest_code` wrote, so an edit since then, or a
    stage that is forced alone, would store outputs under what did not make them. A stage that is
    run by hand, without those files, has no such key.

    Raises:
        ConfigError: names the setting or the file that differs.
    """
    place, settings = spec.code(key, params), paths.settings(spec.name, key)
    if not (place.is_file() and settings.is_file()):
        return
    recorded = read_json(place)
    written = settings.read_text(encoding="utf-8")
    current = settings_text(spec, key, params, recorded["libraries"])
    if with_settings and written != current:
        changed = list_differences(json.loads(written), json.loads(current))
        what = describe_differences(changed, "there", "in params.yaml") or "the order of keys"
        raise ConfigError(f"{settings} is stale: {what}; run dvc repro, or check_params before it")
    if changed_code := CodeTree(Path.cwd()).changed(recorded["files"]):
        raise ConfigError(
            f"{place} is stale: {changed_code[0]} has changed since; run dvc repro, or digest_code "
            "before it"
        )


def parse_call(spec: StageSpec[ConfigT], arguments: Sequence[str]) -> Call[ConfigT]:
    """Read `[key] [override ...] [--cfg job]`; `--cfg job` prints the settings and ends there.

    Raises:
        ConfigError: the key is missing, a setting is wrong, or other library versions are
            installed than the outputs would be cached under.
    """
    rest = list(arguments)
    show = rest[-2:] == ["--cfg", "job"]
    if show:
        rest = rest[:-2]
    key = ""
    if spec.group is not None:
        if not rest or "=" in rest[0] or rest[0].startswith("-"):
            raise ConfigError(f"which one? python -m stages.{spec.name} <key of {spec.group}>")
        key = rest.pop(0)
        check_name(f"a key of {spec.group}", key)
    if flags := [argument for argument in rest if argument.startswith("--")]:
        raise ConfigError(f"{flags[0]}: unknown option; overrides are key=value, and --cfg job")
    params = compose_yaml(Path.cwd(), "params", rest)
    schema = spec.schema_for(key, params)
    config = check_config(schema, spec.reads(key, params), params)
    call = Call(spec.name, key, config, frozenset(spec.unkeyed(key)))
    if show:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(OmegaConf.create(call.plain)), end="")
        raise SystemExit(0)
    check_environment(params)
    check_unchanged(spec, key, params, with_settings=not rest)
    return call


_NOISY = (
    *("absl", "aiobotocore", "botocore", "hydra", "httpx", "httpx2", "matplotlib"),
    *("onnxscript", "torch.onnx"),
)
"""Loggers of libraries that say at `INFO` what nobody asked."""


class PlainFormatter(logging.Formatter):
    """Writes a record in one line, with what would act on a terminal written out."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Format all but a traceback, which follows on lines of its own."""
        return one_line(super().formatMessage(record))


def run_stage(main: Callable[[Sequence[str]], None]) -> None:
    """Run a stage's `main` on the command line: exit 1 and one line for an error of ours."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # It sets its own level when it is imported, later, by the stages that need it.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        main(sys.argv[1:])
    except PlumblineError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        # Of a temporary file, or a library's own: what is an output names itself.
        if (code := refused_write(error)) is None:
            raise
        place = Path(getattr(error, "filename", None) or tempfile.gettempdir())
        print(f"error: {describe_os_error(OSError(code, str(error)), place)}", file=sys.stderr)
        raise SystemExit(1) from None
