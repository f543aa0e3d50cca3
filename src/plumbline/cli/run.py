"""Check every setting, run what changed of the pipeline, and print the headline figures.

`plumbline run` runs what params.yaml holds, `plumbline run easy_vqa` a file of conf/experiment, and
`plumbline run -S tasks.vqa.train.trainer.epochs=3` changes settings. What is wrong with a setting,
a name or a path is said before any stage runs. It is `dvc repro` or `dvc exp run`, which work as
ever; killed, the same command goes on.
"""

import argparse
import shlex
import sys
from pathlib import Path

from plumbline import paths
from plumbline.cli import figures
from plumbline.params import entries_of
from plumbline.reproduction.own import describe
from plumbline.running.checks import check_targets, compose_run, dvc_overrides, stage_outputs
from plumbline.running.following import Followed
from plumbline.running.pipeline import check_project, prepare_run, run_dvc
from plumbline.tracking.past_runs import newest_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take an experiment, settings and targets."""
    parser.add_argument("experiment", nargs="?", help="a file of conf/experiment, such as easy_vqa")
    parser.add_argument(
        "-S",
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting of params.yaml; may be repeated",
    )
    parser.add_argument(
        "-t",
        "--target",
        action="append",
        default=[],
        metavar="STAGE",
        dest="targets",
        help="run as far as this stage, such as finetune@vqa; may be repeated",
    )
    parser.add_argument("--name", help="what DVC calls the experiment; default: it makes one up")
    parser.add_argument("--check", action="store_true", help="check, and run nothing")


def run(options: argparse.Namespace) -> None:
    """Check and run.

    Raises:
        ConfigError: a setting, a name or a path is wrong; nothing has run.
        SystemExit: with the code of dvc.
    """
    root = Path.cwd()
    check_project(root)
    params = compose_run(root, options.experiment, options.overrides)
    stages = list(stage_outputs(root, params))
    check_targets(options.targets, stages)
    print(f"every setting valid: {len(stages)} stages", file=sys.stderr)
    if options.check:
        return
    arguments = _dvc_arguments(root, options)
    prepare_run(root, experiment=arguments[0] == "exp")
    took = {name: run.seconds for name, run in newest_runs(root, status="ok").items()}
    followed = Followed(stages, {name: s for name, s in took.items() if s is not None})
    if code := run_dvc(arguments, lambda line: _hear(followed, line)):
        if followed.ran:
            print(f"stopped in {followed.ran[-1]}: the same command goes on there", file=sys.stderr)
        raise SystemExit(code)
    if options.targets:
        return  # not all that has figures has been run
    figures.run(options)
    _say_what_next(params, followed)
    if options.experiment is None and not options.overrides and (line := describe(root)):
        print(line, file=sys.stderr)


def _dvc_arguments(root: Path, options: argparse.Namespace) -> list[str]:
    """`dvc repro`, where params.yaml is as it is; else an experiment of DVC."""
    overrides = dvc_overrides(root, options.experiment, options.overrides)
    if not overrides and not options.name:
        return ["repro", *options.targets]
    settings = [word for override in overrides for word in ("-S", override)]
    name = ["--name", options.name] if options.name else []
    return ["exp", "run", *name, *settings, *options.targets]


def _hear(followed: Followed, line: str) -> None:
    if said := followed.hear(line):
        print(said, file=sys.stderr, flush=True)


def _say_what_next(params: dict[str, object], followed: Followed) -> None:
    """The commands that a new user would look for."""
    if followed.experiment:
        name = shlex.quote(followed.experiment)
        print(
            f"kept as experiment {name}: plumbline compare HEAD {name}; dvc exp branch {name} NAME"
        )
    for task in entries_of(params, "tasks"):
        print(f"try it: plumbline try {task}; serve it: exports/{task}/README.md")
    for name in entries_of(params, "align"):
        bundle = paths.alignment_export(name)
        if (bundle / "server.py").is_file():
            print(f"try it: plumbline try align.{name}; serve it: {bundle.as_posix()}/README.md")
