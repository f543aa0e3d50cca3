"""Stage `validate`: every row is clean or in quarantine with its reason."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from plumbline import paths
from plumbline.config import Config
from plumbline.engines.base import EngineName, open_engine
from plumbline.errors import DataError
from plumbline.files import (
    STATE_DIR,
    digest_of,
    dump_json,
    read_json,
    staged_output,
    write_json,
)
from plumbline.params import installed_versions
from plumbline.stage import StageSpec, count, each, parse_call
from plumbline.tracking.record import record_run
from plumbline.validation.kept import Kept
from plumbline.validation.report import counts_of_leaks
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.validate import ValidationFailed, validate

logger = logging.getLogger(__name__)


class ValidateConfig(Config):
    """The rules."""

    validate_: ValidationConfig
    """What a row needs to be clean; the others go into quarantine."""
    engine: EngineName = "local"
    """Where the work is done: `local`, on this machine, or `ray`, on the cluster that `RAY_ADDRESS`
    names. It changes no byte of what any stage writes, and makes no stage run again."""


SPEC = StageSpec(
    name="validate",
    schema=ValidateConfig,
    group="datasets",
    sections=lambda key: {"validate_": f"datasets.{key}.validate"},
    unkeyed=lambda key: {"engine": f"datasets.{key}.engine"},
)


def _kept(dataset: str) -> Kept | None:
    """Where rows that have been judged are remembered, with the code that judged them."""
    code = paths.code(SPEC.name)
    if not code.is_file():  # run by hand, before `digest_code`
        return None
    root = Path(os.environ.get("DVC_ROOT", "."))
    ran = read_json(code)
    versions = installed_versions()
    libraries = {name: versions[name] for name in ran["libraries"]}
    return Kept(root / STATE_DIR / "validated" / dataset, digest_of([ran["files"], libraries]))


def main(arguments: Sequence[str]) -> None:
    """Write clean and quarantined rows, and how many stand in several splits."""
    call = parse_call(SPEC, arguments)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.quarantine(call.key)) as quarantine,
        staged_output(paths.clean(call.key)) as clean,
        open_engine(call.config.engine) as engine,
    ):
        account = paths.account(call.key)
        source: dict[str, object] = {"source": read_json(account)} if account.is_file() else {}
        # The account of a failed validation lies beside the output, which does not come to be.
        failed = paths.quarantine(call.key).with_suffix(".failed.json")
        try:
            report = validate(
                *(paths.raw(call.key), clean, quarantine, call.config.validate_),
                engine=engine,
                kept=_kept(call.key),
            )
        except ValidationFailed as error:
            write_json(failed, {**error.report, **source})
            raise DataError(f"{error}; the account is in {failed}") from None
        failed.unlink(missing_ok=True)
        (quarantine / "report.json").write_text(dump_json({**report, **source}), encoding="utf-8")
        # Not in `clean`, which only training reads: rules that change no row shall not retrain.
        call.store(quarantine)
        write_json(paths.data_metrics(call.key), {"leaks": counts_of_leaks(report)})
        facts = ("rows_in", "rows_quarantined", "reasons")
        run.facts({name: value for name, value in report.items() if name in facts})
    for warning in report["warnings"]:
        logger.warning("validate %s: %s", call.key, warning)
    reasons = each(dict(sorted(report["reasons"].items())))
    call.report(
        count(report["rows_in"], "row"),
        f"{sum(report['rows_clean'].values()):,} clean",
        f"{report['rows_quarantined']:,} quarantined{reasons}",
        see=paths.quarantine(call.key) / "report.json",
    )
