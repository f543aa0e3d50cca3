"""Stage `prepare`: bring a source into the canonical columns."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from plumbline import paths
from plumbline.config import Config
from plumbline.files import staged_output
from plumbline.registry import OneOf
from plumbline.sources.account import make_account, write_account
from plumbline.sources.registry import SOURCES, Source, write_raw
from plumbline.stage import StageSpec, count, parse_call
from plumbline.tracking.record import record_run

logger = logging.getLogger(__name__)


class PrepareConfig(Config):
    """Where the dataset lies and what makes rows of it."""

    path: str
    """The folder or file that the source reads; for one that makes its rows, a file that never
    changes."""
    prepare: Annotated[Source, OneOf(SOURCES, "source")]
    """The source: what reads rows from there."""


SPEC = StageSpec(
    name="prepare",
    schema=PrepareConfig,
    group="datasets",
    sections=lambda key: {
        "path": f"datasets.{key}.path",
        "prepare": f"datasets.{key}.prepare",
    },
)


def main(arguments: Sequence[str]) -> None:
    """Write `work/raw/<dataset>`."""
    call = parse_call(SPEC, arguments)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.raw(call.key)) as out,
    ):
        source, path = call.config.prepare, Path(call.config.path)
        whose = f"dataset {call.key}, at {path.as_posix()},"
        rows = write_raw(source.read(path), source.given_splits, out, whose)
        account = make_account(path, source, rows)
        write_account(account, out)
        call.store(out)
        run.facts(account.facts())
    for line in account.warnings:
        logger.warning("prepare %s: %s", call.key, line)
    noted = [f"{count(number, unit[:-1])} {what}" for number, unit, what in account.counts]
    call.report(count(rows, "row"), *noted, see=paths.account(call.key))
