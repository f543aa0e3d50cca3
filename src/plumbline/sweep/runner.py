"""The search itself: draw points, queue their runs, watch them, keep what they gave."""

import json
import math
import time
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path

from omegaconf import OmegaConf

from plumbline.errors import ConfigError, DataError, PlumblineError
from plumbline.sweep.live import LiveValues
from plumbline.sweep.overrides import check_point
from plumbline.sweep.queue import DvcQueue, QueuedRun, baseline_of
from plumbline.sweep.search import Search
from plumbline.sweep.study import Point, Study

POLL_S = 1.0
_REPEATS = 2
"""Times that a run which has vanished or never began is queued again by one command."""


class Runner:
    """Drives one sweep to its end; everything it must remember is in the study and the queue."""

    def __init__(
        self, search: Search, study: Study, queue: DvcQueue, say: Callable[[str], None]
    ) -> None:
        """Drive a search; `say` prints a line of progress."""
        self._search, self._config = search, search.config
        self._study, self._queue, self._say = study, queue, say
        self._live = LiveValues(search.root, search.config)
        self._unfinished: dict[str, QueuedRun] = {}
        self._succeeded: dict[str, str] = {}
        self._figures: dict[str, float] = {}
        self._vanished: dict[str, int] = {}
        self._submitted = 0

    def run(self, *, retry_failed: bool) -> int:
        """Search until all points have ended.

        Returns:
            How many runs were queued.

        Raises:
            PlumblineError: DVC refuses a run, or the checkout has changed under the sweep.
        """
        self._queue.settle()
        if retry_failed:
            for point in self._study.points():
                if point.state == "failed":
                    self._study.repeat(point)
        while True:
            self._look()
            for point in self._open():
                self._advance(point)
            while self._under_way() < self._config.jobs and (drawn := self._draw()):
                self._advance(drawn)
            if not self._open():
                return self._submitted
            if busy := self._under_way():
                self._queue.start_workers(min(busy, self._config.jobs))
            time.sleep(POLL_S)

    def _look(self) -> None:
        # In this order: a run that succeeds in between is found by its reference.
        self._unfinished = self._queue.unfinished()
        self._succeeded = self._queue.succeeded(self._search.baseline)

    def _open(self) -> list[Point]:
        return [point for point in self._study.points() if point.state == "running"]

    def _under_way(self) -> int:
        ours = {
            run
            for point in self._study.points()
            for run in self._search.runs(point.overrides).values()
        }
        return sum(
            run in ours and run not in self._succeeded and entry.state in ("queued", "running")
            for run, entry in self._unfinished.items()
        )

    def _draw(self) -> Point | None:
        wanted, points = self._config.points, self._study.points()
        if wanted is not None and len(points) >= wanted:
            return None
        return self._study.ask()

    def _advance(self, point: Point) -> None:
        """Bring a point one step further: queue its runs, stop them, or take what they gave."""
        names = self._search.runs(point.overrides)
        if self._study.is_hopeless(point):
            self._stop(point, names)
            return
        try:
            if not point.queued:
                check_point(self._search.root, self._search.overrides(point.overrides, ""))
            for run in names.values():
                self._collect(point, run)
            for seed, run in names.items():
                if run not in self._figures:
                    self._carry_on(point, seed, run)
        except (DataError, ConfigError) as error:
            if isinstance(error, _CheckoutChangedError):
                raise
            self._fail(point, names, str(error))
            return
        self._judge(point, names)
        if all(run in self._figures for run in names.values()):
            values = {seed: self._figures[run] for seed, run in names.items()}
            self._study.tell_complete(point, values)
            self._tell(point, f"{sum(values.values()) / len(values):.6g}")

    def _collect(self, point: Point, run: str) -> None:
        """Take the figure of a run that has succeeded; only then are its metrics its own."""
        if run in self._figures or run not in self._succeeded:
            return
        file, _, key = self._config.metric.partition(":")
        try:
            text = self._queue.read(self._succeeded[run], file)
        except FileNotFoundError:
            raise DataError(f"{run} has no {file}, which metric names") from None
        self._figures[run] = figure_of(text, file, key)

    def _carry_on(self, point: Point, seed: str, run: str) -> None:
        """See to it that a run without a result is queued or runs.

        Raises:
            DataError: it has failed, or is gone for no known reason.
        """
        entry = self._unfinished.get(run)
        if entry is not None and entry.state in ("queued", "running"):
            self._remember(point, run)
            return
        if run in point.queued and (entry is None or entry.state == "failed"):
            if entry is not None and (reason := self._queue.failure(entry.rev)) is not None:
                raise DataError(f"{reason} (dvc queue logs {run})")
            self._vanished[run] = self._vanished.get(run, 0) + 1
            if self._vanished[run] > _REPEATS:
                what = "never begins" if entry else "vanishes from the DVC queue without a result"
                raise DataError(f"{run} {what}; .dvc/tmp/exps/celery/ has the logs of the workers")
        if entry is not None:
            self._queue.discard(run, entry)  # left over from before, or lost with its worker
        self._check_checkout()
        overrides = self._search.overrides(point.overrides, seed)
        self._queue.submit(run, overrides, self._config.targets)
        self._unfinished[run] = QueuedRun("queued", "")
        self._remember(point, run)
        self._submitted += 1

    def _remember(self, point: Point, run: str) -> None:
        if run not in point.queued:
            self._study.mark_queued(point, run)

    def _check_checkout(self) -> None:
        try:
            now = baseline_of(self._search.root)
        except ConfigError as error:
            raise _CheckoutChangedError(f"{error}; then start this sweep again") from None
        if now != self._search.baseline:
            raise _CheckoutChangedError(
                f"HEAD is {now[:8]} now, this sweep runs on {self._search.baseline[:8]}: check "
                "that out and start it again"
            )

    def _judge(self, point: Point, names: Mapping[str, str]) -> None:
        """Keep intermediate values of the first seed's run; stop a point that has no hope."""
        if self._config.prune is None:
            return
        first = next(iter(names.values()))
        values = self._live.of(first)
        hopeless = self._study.report(point, values)
        if hopeless and first not in self._figures:
            series = self._config.prune.value
            self._study.mark_hopeless(
                point, f"{series} number {len(values)} is worse than the median of other points"
            )
            self._stop(point, names)

    def _stop(self, point: Point, names: Mapping[str, str]) -> None:
        self._withdraw(names, running=True)
        self._study.tell_pruned(point)
        self._tell(point, "stopped, no better than the median")

    def _fail(self, point: Point, names: Mapping[str, str], reason: str) -> None:
        self._withdraw(names, running=False)
        self._study.tell_failed(point, reason)
        self._tell(point, f"failed: {reason}")

    def _withdraw(self, names: Mapping[str, str], *, running: bool) -> None:
        for run in names.values():
            entry = self._queue.unfinished().get(run)
            if entry is None:
                continue
            if entry.state == "queued":
                self._queue.discard(run, entry)
                self._unfinished.pop(run, None)
            elif entry.state == "running" and running:
                self._queue.stop(run)
                self._unfinished.pop(run, None)

    def _tell(self, point: Point, outcome: str) -> None:
        points = self._study.points()
        ended = sum(other.state != "running" for other in points)
        number = next(n for n, other in enumerate(points, 1) if other.number == point.number)
        of = f"/{self._config.points}" if self._config.points else ""
        self._say(f"[{ended}{of}] point {number}: {' '.join(point.overrides)}: {outcome}")


class _CheckoutChangedError(ConfigError):
    """The commit or the files that runs are made of are no longer those of the sweep."""


def figure_of(text: str, file: str, key: str) -> float:
    """The number at a dotted key of a metrics file.

    Raises:
        DataError: the file is damaged, has no such key, or there is no finite number.
    """
    try:
        node: object = json.loads(text) if file.endswith(".json") else _read_yaml(text)
    except (ValueError, PlumblineError) as error:
        raise DataError(f"{file}: not readable ({error})") from None
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            known = [str(name) for name in node] if isinstance(node, Mapping) else []
            near = get_close_matches(part, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else f"; there is {', '.join(known)}"
            raise DataError(f"{file}: no {key}{hint if known else ''}{_elsewhere(file, key)}")
        node = node[part]
    if isinstance(node, bool) or not isinstance(node, int | float) or not math.isfinite(node):
        raise DataError(f"{file}: {key} = {node!r} is no finite number")
    return float(node)


def _elsewhere(file: str, key: str) -> str:
    """Where a figure may be that a metrics file of an evaluation does not list."""
    if not file.startswith("metrics/"):
        return ""
    folder = Path("work/evaluation", file.removeprefix("metrics/")).with_suffix("")
    return f"; every figure of the evaluation is in {folder}/details.json:figures.{key}"


def _read_yaml(text: str) -> object:
    return OmegaConf.to_container(OmegaConf.create(text))
