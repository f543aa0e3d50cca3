"""Stage `validate`: every row is clean or in quarantine with its reason."""

from collections.abc import Sequence

from plumbline import paths
from plumbline.config import Config
from plumbline.errors import DataError
from plumbline.files import dump_json, staged_output, write_json
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tracking.record import record_run
from plumbline.validation.validate import ValidationConfig, ValidationFailed, validate


class ValidateConfig(Config):
    """The rules."""

    validate_: ValidationConfig


SPEC = StageSpec(
    name="validate",
    schema=ValidateConfig,
    group="datasets",
    sections=lambda key: {"validate_": f"datasets.{key}.validate"},
)


def main(arguments: Sequence[str]) -> None:
    """Write `work/clean/<dataset>` and `work/quarantine/<dataset>`."""
    call = parse_call(SPEC, arguments)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.quarantine(call.key)) as quarantine,
        staged_output(paths.clean(call.key)) as clean,
    ):
        # The account of a failed validation lies beside the output, which does not come to be.
        failed = paths.quarantine(call.key).with_suffix(".failed.json")
        try:
            report = validate(paths.raw(call.key), clean, quarantine, call.config.validate_)
        except ValidationFailed as error:
            write_json(failed, error.report)
            raise DataError(f"{error}; the account is in {failed}") from None
        failed.unlink(missing_ok=True)
        (quarantine / "report.json").write_text(dump_json(report), encoding="utf-8")
        # Not in `clean`, which only training reads: rules that change no row shall not retrain.
        (quarantine / "config.json").write_text(dump_json(call.plain), encoding="utf-8")
        run.facts({"rows_in": report["rows_in"], "rows_quarantined": report["rows_quarantined"]})


if __name__ == "__main__":
    run_stage(main)
