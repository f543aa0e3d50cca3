"""Stage `finetune`: a task's model learns on top of what it starts from."""

from collections.abc import Sequence

from plumbline import paths
from plumbline.config import fix_threads
from plumbline.files import output_lock
from plumbline.stage import parse_call, run_stage
from plumbline.tracking.record import record_run
from plumbline.training.task_sections import FINETUNE

SPEC = FINETUNE


def main(arguments: Sequence[str]) -> None:
    """Write `models/tasks/<task>`."""
    call = parse_call(SPEC, arguments)
    fix_threads(call.config.threads)
    from plumbline.training.run import TrainingRun, open_job, train_to_folder

    out = paths.finetuned(call.key)
    with record_run(stage=SPEC.name, key=call.key, config=call.plain) as run, output_lock(out):
        job = open_job(call.config)
        training = TrainingRun.of(f"{SPEC.name}@{call.key}", call.config)
        run.facts(train_to_folder(training, job, out, on_log=run.metrics))
        run.artifact(out / "metrics.json")


if __name__ == "__main__":
    run_stage(main)
