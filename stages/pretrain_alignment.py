"""Stage `pretrain_alignment`: an image encoder and a text encoder learn to meet in one space."""

from collections.abc import Sequence

from plumbline import paths
from plumbline.config import fix_threads
from plumbline.files import output_lock
from plumbline.stage import parse_call, run_stage
from plumbline.tracking.record import record_run
from plumbline.training.alignment_sections import PRETRAIN_ALIGNMENT

SPEC = PRETRAIN_ALIGNMENT


def main(arguments: Sequence[str]) -> None:
    """Write `models/align/<name>`."""
    call = parse_call(SPEC, arguments)
    fix_threads(call.config.threads)
    from plumbline.training.run import TrainingRun, open_job, train_to_folder

    out = paths.aligned(call.key)
    with record_run(stage=SPEC.name, key=call.key, config=call.plain) as run, output_lock(out):
        job = open_job(call.config)
        training = TrainingRun.of(f"{SPEC.name}@{call.key}", call.config)
        run.facts(train_to_folder(training, job, out, on_log=run.metrics))
        run.artifact(out / "metrics.json")


if __name__ == "__main__":
    run_stage(main)
