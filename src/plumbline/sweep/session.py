"""One call of `plumbline sweep`: what runs, what is shown, what is kept.

A sweep is a file `sweeps/<name>.yaml`. The same command goes on with a sweep that was stopped or
killed; a finished one runs nothing. The table, the plot and what Optuna knows lie in
`.plumbline/sweeps/<name>/`, the best point becomes `conf/experiment/<name>_best.yaml`.
"""

from pathlib import Path

from plumbline.errors import ConfigError, PlumblineError
from plumbline.files import atomic_write, output_lock
from plumbline.heal import heal
from plumbline.reproduction.own import adopt
from plumbline.sweep.best import write_best
from plumbline.sweep.config import SweepConfig
from plumbline.sweep.figure import draw
from plumbline.sweep.queue import DvcQueue, baseline_of
from plumbline.sweep.runner import Runner
from plumbline.sweep.search import Search, sweep_folder
from plumbline.sweep.study import Study, begin
from plumbline.sweep.table import as_csv, as_text, best_of, rows
from plumbline.text import shown


def run_sweep(root: Path, name: str, config: SweepConfig, *, retry_failed: bool, new: bool) -> None:
    """Run a sweep or go on with it, show it and keep its best point.

    Args:
        root: the project.
        name: of the sweep.
        config: its settings, checked.
        retry_failed: run failed points again.
        new: begin anew; the former study is kept.

    Raises:
        PlumblineError: points failed.
    """
    folder = sweep_folder(root, name)
    with output_lock(folder.relative_to(root)):
        queue = DvcQueue(root, config.slots)
        for path in heal(root):
            _say(f"removed {path}: what a killed dvc left of an entry of its run cache")
        queue.settle()  # before the checkout is looked at: DVC changes it while it queues
        adopt(root)
        search = Search(root, name, config, baseline_of(root))
        begin(folder, config, search.baseline, new=new)
        study = Study(folder, config)
        try:
            submitted = Runner(search, study, queue, _say).run(retry_failed=retry_failed)
        except KeyboardInterrupt:
            _say("stopped; the DVC queue goes on with what it holds, this command with the rest")
            raise
        show(search)
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


def show(search: Search) -> None:
    """Write the table and the plot of what there is by now, and print the table."""
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
