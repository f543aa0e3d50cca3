"""The durable memory of a sweep: an Optuna study in `.plumbline/sweeps/<name>/study.journal`.

Optuna's journal is appended to and synced at every change, so a killed sweep finds all that it
knew. A point is told apart by the digest of its overrides; of two trials of one point (one was
repeated after it failed) the later one counts.
"""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from plumbline.errors import CheckpointError, ConfigError
from plumbline.files import digest_of, read_json, write_json
from plumbline.sweep.config import SweepConfig
from plumbline.sweep.space import Parameters, combinations, distributions, to_overrides

Kept = TypeVar("Kept")
PointState = Literal["running", "complete", "pruned", "failed"]
_STATES: dict[TrialState, PointState] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_HIDDEN = "hidden"
_DRAWS = 100


@dataclass(frozen=True)
class Point:
    """One trial: where it stands in the space and what came of it."""

    number: int
    overrides: tuple[str, ...]
    """Those of the space, in the order of the file."""
    state: PointState
    value: float | None
    """The objective: the mean of `values` once the point is complete."""
    values: dict[str, float]
    """By seed; the key is empty where the sweep names no seeds."""
    queued: frozenset[str]
    """Runs that have been handed to the DVC queue for this trial."""
    reason: str | None
    """Why it failed or was stopped."""

    @property
    def digest(self) -> str:
        """The same for the same overrides."""
        return digest_of(list(self.overrides))


class Study:
    """Points that were asked for and what was told of them."""

    def __init__(self, folder: Path, config: SweepConfig, *, read_only: bool = False) -> None:
        """Open the study in `folder`, or begin it there unless `read_only`.

        Raises:
            CheckpointError: there is none to read.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config = config
        self._distributions = distributions(config.space)
        journal = folder / "study.journal"
        if read_only and not journal.is_file():
            raise CheckpointError(f"{folder.name}: no point of this sweep has been drawn yet")
        if not read_only:
            _repair(journal)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        if read_only:
            self._study = optuna.load_study(study_name="sweep", storage=storage)
            return
        self._study = optuna.create_study(
            study_name="sweep",
            storage=storage,
            direction=config.direction,
            load_if_exists=True,
        )
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if set(trial.params) != set(config.space):  # killed while it was being drawn
                self._hide(trial.number, "never drawn to its end")

    def points(self) -> list[Point]:
        """All points in the order in which they were asked for."""
        by_digest: dict[str, Point] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state is TrialState.WAITING or _HIDDEN in trial.user_attrs:
                continue
            if set(trial.params) == set(self._config.space):
                point = self._point(trial)
                by_digest[point.digest] = point
        return sorted(by_digest.values(), key=lambda point: point.number)

    def _point(self, trial: FrozenTrial) -> Point:
        kept = trial.user_attrs
        return Point(
            number=trial.number,
            overrides=to_overrides(self._config.space, trial.params),
            state=_STATES[trial.state],
            value=trial.value if trial.state is TrialState.COMPLETE else None,
            values=kept.get("values", {}),
            queued=frozenset(kept.get("queued", [])),
            reason=kept.get("reason"),
        )

    def ask(self) -> Point | None:
        """Draw a point that there was not yet; None when the space has no more.

        The draw depends on the sampler's seed, the number of the trial and what has been told:
        a sweep that was killed goes on as it would have.
        """
        taken = {point.digest for point in self.points()}
        forced = self._config.sampler == "grid"
        for _ in range(_DRAWS):
            number = len(self._study.get_trials(deepcopy=False))
            if forced and not self._waiting():
                free = self._free(taken, number)
                if free is None and self._is_finite():
                    return None
                if free is not None:
                    self._study.enqueue_trial(free)
            self._study.sampler = self._sampler(number)
            trial = self._study.ask(self._distributions)
            point = self._point(self._trial(trial.number))
            if point.digest not in taken:
                return point
            self._hide(trial.number, "there is this point already")
            forced = True
        return None

    def _waiting(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _is_finite(self) -> bool:
        return combinations(self._config.space) is not None

    def _free(self, taken: set[str], number: int) -> Parameters | None:
        space = self._config.space
        free = [
            parameters
            for parameters in combinations(space) or []
            if digest_of(list(to_overrides(space, parameters))) not in taken
        ]
        if not free or self._config.sampler == "grid":
            return free[0] if free else None
        return random.Random(self._seed(number)).choice(free)  # noqa: S311 - no secret

    def _seed(self, number: int) -> int:
        return int(digest_of([self._config.sampler_seed, number])[:8], 16)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        # A sampler keeps its random state in memory: one with a seed of its own for every trial
        # draws the same after a restart.
        seed = self._seed(number)
        if self._config.sampler != "tpe":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = self._config.startup_points or min(10, max(1, (self._config.points or 1) // 3))
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, constant_liar=self._config.jobs > 1
        )

    def repeat(self, point: Point) -> Point:
        """Begin a failed point again, as a new trial that takes its place."""
        self._study.enqueue_trial(self._trial(point.number).params)
        return self._point(self._trial(self._study.ask(self._distributions).number))

    def mark_queued(self, point: Point, run: str) -> None:
        """Remember that a run of the point is in the DVC queue."""
        queued: list[str] = self._kept(point, "queued", [])
        self._set(point.number, "queued", sorted({*queued, run}))

    def mark_hopeless(self, point: Point, reason: str) -> None:
        """Remember that the point shall be stopped, before it is."""
        self._set(point.number, "reason", reason)
        self._set(point.number, "hopeless", True)

    def is_hopeless(self, point: Point) -> bool:
        """Whether the point was to be stopped."""
        return bool(self._kept(point, "hopeless", False))

    def tell_complete(self, point: Point, values: dict[str, float]) -> None:
        """End a point with its figure for each seed."""
        self._set(point.number, "values", values)
        self._study.tell(point.number, sum(values.values()) / len(values))

    def tell_pruned(self, point: Point) -> None:
        """End a point that was stopped; its last intermediate value stands for it in Optuna."""
        self._study.tell(point.number, state=TrialState.PRUNED)

    def tell_failed(self, point: Point, reason: str) -> None:
        """End a point without a figure."""
        self._set(point.number, "reason", reason)
        self._study.tell(point.number, state=TrialState.FAIL)

    def report(self, point: Point, values: list[float]) -> bool:
        """Keep a point's intermediate values; whether the median rule would stop it.

        Args:
            point: one that runs.
            values: all so far, in their order, in the direction of the sweep.
        """
        prune = self._config.prune
        assert prune is not None
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=prune.after_points, n_warmup_steps=prune.after_values
        )
        known = len(self._trial(point.number).intermediate_values)
        stop = False
        for place, value in list(enumerate(values))[known:]:
            trial_id = self._trial(point.number)._trial_id
            self._study._storage.set_trial_intermediate_value(trial_id, place, value)
            stop = stop or pruner.prune(self._study, self._trial(point.number))
        return stop

    def _trial(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _kept(self, point: Point, name: str, default: Kept) -> Kept:
        kept: Kept = self._trial(point.number).user_attrs.get(name, default)
        return kept

    def _set(self, number: int, name: str, value: object) -> None:
        trial = self._trial(number)
        self._study._storage.set_trial_user_attr(trial._trial_id, name, value)

    def _hide(self, number: int, why: str) -> None:
        self._set(number, _HIDDEN, why)
        self._study.tell(number, state=TrialState.FAIL)


def _repair(journal: Path) -> None:
    """Take away what a killed process may have left; the caller holds the sweep.

    Optuna waits half a minute for a lock that nobody holds, and does not read on after a line that
    a power failure has cut short.
    """
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.is_file() and (content := journal.read_bytes()) and not content.endswith(b"\n"):
        journal.write_bytes(content[: content.rfind(b"\n") + 1])


def begin(folder: Path, config: SweepConfig, baseline: str, *, new: bool) -> None:
    """Bind a folder to one search on one commit; `new` puts an earlier study aside.

    Raises:
        ConfigError: the folder holds a study of another search or commit; one line says of what
            and what can be done.
    """
    file = folder / "study.json"
    if file.is_file() and new:
        _put_aside(folder, read_json(file))
    elif file.is_file():
        begun = bound_to(folder, config)
        if begun != baseline:
            raise _changed(folder, f"the commit went from {begun[:8]} to {baseline[:8]}")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, {"search": config.identity, "baseline": baseline})


def bound_to(folder: Path, config: SweepConfig) -> str:
    """The commit that the study in `folder` runs on.

    Raises:
        CheckpointError: there is none.
        ConfigError: it is of another search.
    """
    if not (folder / "study.json").is_file():
        raise CheckpointError(f"{folder.name}: this sweep has not been started")
    before = read_json(folder / "study.json")
    search, earlier = config.identity, before["search"]
    if keys := sorted(k for k in {*search, *earlier} if search.get(k) != earlier.get(k)):
        raise _changed(folder, f"{', '.join(keys)} changed in its file")
    return str(before["baseline"])


def _changed(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{folder.name}: {what} since its study was begun. Go on with that study by taking the "
        "change back, or begin a new one with --new (the former is kept)"
    )


def _put_aside(folder: Path, before: dict[str, object]) -> None:
    kept = folder / f"before-{digest_of(before)[:8]}"
    if kept.exists():
        shutil.rmtree(kept)  # the same search on the same commit, begun anew once more
    kept.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            path.rename(kept / path.name)
