"""Search settings through the DVC queue: `python -m plumbline.sweep vqa_lr`.

A sweep is a file `sweeps/<name>.yaml`. The same command goes on with a sweep that was stopped or
killed; a finished one runs nothing. The table, the plot and what Optuna knows lie in
`.plumbline/sweeps/<name>/`, the best point becomes `conf/experiment/<name>_best.yaml`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from plumbline.errors import ConfigError, PlumblineError
from plumbline.files import atomic_write, output_lock
from plumbline.heal import heal
from plumbline.plugins import load_plugins
from plumbline.reproduction.own import adopt
from plumbline.stage import run_stage
from plumbline.sweep.best import write_best
from plumbline.sweep.config import SweepConfig, load_sweep
from plumbline.sweep.figure import draw
from plumbline.sweep.queue import DvcQueue, baseline_of
from plumbline.sweep.runner import Runner
from plumbline.sweep.search import Search, check_sweep, sweep_folder
from plumbline.sweep.study import Study, begin, bound_to
from plumbline.sweep.table import as_csv, as_text, best_of, rows
from plumbline.text import shown


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m plumbline.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="of sweeps/<name>.yaml")
    parser.add_argument("--jobs", type=_positive, help="runs at a time, in place of the file's")
    parser.add_argument("--points", type=_positive, help="points in all, in place of the file's")
    parser.add_argument("--retry-failed", action="store_true", help="run failed points again")
    parser.add_argument("--new", action="store_true", help="begin anew; the former study is kept")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="store_true", help="only show what there is by now")
    what.add_argument("--check", action="store_true", help="only check the settings")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run, continue or show a sweep."""
    options = _parse(arguments)
    root = Path.cwd()
    load_plugins(root / "plugins")  # a metric of theirs says which way is better
    config = load_sweep(root, options.name)
    chosen = {name: getattr(options, name) for name in ("jobs", "points")}
    config = config.model_copy(update={name: v for name, v in chosen.items() if v is not None})
    try:
        config.check_slots()
    except ValueError as error:
        raise ConfigError(f"--jobs: {error}") from None
    if options.table:
        begun = bound_to(sweep_folder(root, options.name), config)
        _show(Search(root, options.name, config, begun))
        return
    check_sweep(root, config)
    if not options.check:
        _search(root, options, config)


def _search(root: Path, options: argparse.Namespace, config: SweepConfig) -> None:
    folder = sweep_folder(root, options.name)
    with output_lock(folder.relative_to(root)):
        queue = DvcQueue(root, config.slots)
        for path in heal(root):
            _say(f"removed {path}: what a killed dvc left of an entry of its run cache")
        queue.settle()  # before the checkout is looked at: DVC changes it while it queues
        adopt(root)
        search = Search(root, options.name, config, baseline_of(root))
        begin(folder, config, search.baseline, new=options.new)
        study = Study(folder, config)
        try:
            submitted = Runner(search, study, queue, _say).run(retry_failed=options.retry_failed)
        except KeyboardInterrupt:
            _say("stopped; the DVC queue goes on with what it holds, this command with the rest")
            raise
        _show(search)
        _say(f"{submitted} runs were queued")
        _keep_best(search, study)
    points = study.points()
    if failed := [point for point in points if point.state == "failed"]:
        raise PlumblineError(
            f"{len(failed)} of {len(points)} points failed, the first with: {failed[0].reason}. "
            "--retry-failed runs them again"
        )


def _say(line: str) -> None:
    print(shown(line), flush=True)


def _show(search: Search) -> None:
    folder = sweep_folder(search.root, search.name)
    points = Study(folder, search.config, read_only=True).points()
    runs = [list(search.runs(point.overrides).values()) for point in points]
    table = rows(search.config, points, runs)
    atomic_write(folder / "points.csv", as_csv(table))
    atomic_write(folder / "points.svg", draw(search.config, points))
    _say(as_text(table))
    _say(f"{folder.relative_to(search.root)}: points.csv, points.svg")


def _keep_best(search: Search, study: Study) -> None:
    config = search.config
    best = best_of(study.points(), config.direction)
    if best is None:
        return
    seed = str(config.seeds[0]) if config.seeds else ""
    comment = f"{config.metric.partition(':')[2]} {best.value:.6g}"
    if len(config.seeds) > 1:
        comment += f", the mean over seeds {', '.join(map(str, config.seeds))}"
    overrides = search.overrides(best.overrides, seed)
    try:
        path = write_best(search.root, search.name, overrides, comment)
    except ConfigError as error:
        _say(f"no experiment was written: {error}")
        return
    _say(f"best: {' '.join(best.overrides)}; dvc exp run -S experiment={path.stem}")


if __name__ == "__main__":
    run_stage(main)
