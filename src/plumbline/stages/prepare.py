"""Stage `prepare`: bring a source into the canonical columns."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import field_validator

from plumbline import paths
from plumbline.config import Config
from plumbline.engines.base import EngineName, open_engine
from plumbline.files import staged_output
from plumbline.objects.mirror import local_copy
from plumbline.objects.stores import STORES, scheme_of
from plumbline.registry import OneOf
from plumbline.sources.account import make_account, write_account
from plumbline.sources.reading import read_rows
from plumbline.sources.registry import SOURCES, Source, write_raw
from plumbline.stage import StageSpec, count, parse_call
from plumbline.tracking.record import record_run

logger = logging.getLogger(__name__)


class PrepareConfig(Config):
    """Where the dataset lies and what makes rows of it."""

    path: str
    """The folder or file that the source reads; `work/objects/<name>.jsonl` for what an entry of
    `objects` names; for one that makes its rows, a file that never changes."""
    prepare: Annotated[Source, OneOf(SOURCES, "source")]
    """The source: what reads rows from there."""
    engine: EngineName = "local"
    """Where the work is done: `local`, on this machine, or `ray`, on the cluster that `RAY_ADDRESS`
    names. It changes no byte of what any stage writes, and makes no stage run again."""

    @field_validator("path")
    @classmethod
    def _is_path(cls, path: str) -> str:
        if scheme_of(path) in STORES:
            raise ValueError(
                "a path is expected, since DVC compares files: name the URL in an entry of "
                f"objects (objects.NAME.url), and {paths.objects('NAME').as_posix()} here"
            )
        return path


SPEC = StageSpec(
    name="prepare",
    schema=PrepareConfig,
    group="datasets",
    sections=lambda key: {
        "path": f"datasets.{key}.path",
        "prepare": f"datasets.{key}.prepare",
    },
    unkeyed=lambda key: {"engine": f"datasets.{key}.engine"},
)


def main(arguments: Sequence[str]) -> None:
    """Write `work/raw/<dataset>`."""
    call = parse_call(SPEC, arguments)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        # Before the output is begun: objects may be on their way for hours.
        local_copy(Path(call.config.path)) as path,
        open_engine(call.config.engine) as engine,
        staged_output(paths.raw(call.key)) as out,
    ):
        source = call.config.prepare
        whose = f"dataset {call.key}, at {call.config.path},"
        rows = write_raw(read_rows(source, path, engine), source.given_splits, out, whose)
        account = make_account(path, source, rows)
        write_account(account, out)
        call.store(out)
        run.facts(account.facts())
    for line in account.warnings:
        logger.warning("prepare %s: %s", call.key, line)
    noted = [f"{count(number, unit[:-1])} {what}" for number, unit, what in account.counts]
    call.report(count(rows, "row"), *noted, see=paths.account(call.key))
