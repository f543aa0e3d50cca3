"""The edge of every stage: command line in, exit code and one-line errors out."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from omegaconf import OmegaConf

from plumbline.config import Config, ConfigT, check_config, compose_yaml
from plumbline.disk_errors import describe_os_error, refused_write
from plumbline.errors import ConfigError, PlumblineError
from plumbline.names import check_name
from plumbline.params import check_environment
from plumbline.text import one_line

logger = logging.getLogger(__name__)

Sections = Callable[[str], Mapping[str, str]]
"""Key of the stage -> field of its settings -> dotted key in params.yaml.

The `params:` of the stage in dvc.yaml name the same keys; a test compares them.
"""


class _Kind(Config):
    kind: str


@dataclass(frozen=True)
class StageSpec(Generic[ConfigT]):
    """What a stage reads of params.yaml."""

    name: str
    schema: type[ConfigT]
    sections: Sections
    group: str | None = None
    """The mapping whose keys it runs for: datasets, align or tasks; None: it runs once."""
    schema_of_kind: Callable[[str], type[ConfigT]] | None = None
    """Kind of the task -> `schema` with the settings of that kind; None: it serves all kinds."""

    def schema_for(self, key: str, params: Mapping[str, Any]) -> type[ConfigT]:
        """The schema of one run.

        Raises:
            ConfigError: the task is of an unknown kind.
        """
        if self.schema_of_kind is None:
            return self.schema
        place = self.sections(key)["kind"]
        kind = check_config(_Kind, {"kind": place}, params).kind
        try:
            return self.schema_of_kind(kind)
        except ConfigError as error:
            raise ConfigError(f"{place} = {kind!r}: {error}") from None


@dataclass(frozen=True)
class Call(Generic[ConfigT]):
    """One run of a stage."""

    stage: str
    key: str
    config: ConfigT

    @property
    def plain(self) -> dict[str, Any]:
        """The resolved settings as plain JSON types: what is stored with the outputs."""
        return self.config.model_dump(mode="json")

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
    call = Call(spec.name, key, check_config(schema, spec.sections(key), params))
    if show:
        print(OmegaConf.to_yaml(OmegaConf.create(call.plain)), end="")
        raise SystemExit(0)
    check_environment(params)
    return call


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
    for noisy in ("absl", "hydra", "httpx", "matplotlib", "torch.onnx", "onnxscript"):
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
