"""Two versions of a project side by side: settings that differ, figures with their intervals."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import yaml

from plumbline import paths
from plumbline.errors import CheckpointError, ConfigError
from plumbline.params import entries_of, list_differences
from plumbline.report.figure_table import interval_of, is_bound
from plumbline.report.figures import full_label
from plumbline.report.first_figures import DETAILS, printed
from plumbline.report.history import CURVES, Series, parse_curve
from plumbline.running.checks import nearest
from plumbline.waiting import run_command

WORKSPACE = "workspace"
"""What the files on disk are called, as in DVC."""


@dataclass(frozen=True)
class Version:
    """What is compared of a commit, an experiment or the files on disk."""

    name: str
    params: Mapping[str, object]
    listed: Mapping[str, Mapping[str, float]]
    """`task vqa` or `alignment image` -> the figures that Git records of it."""
    figures: Mapping[str, Mapping[str, float]]
    """The same with all figures, intervals among them, where the cache of DVC has them."""
    commit: str | None = None
    """Of Git; None: the files on disk."""


class FigurePair(TypedDict):
    """One figure of two or more versions."""

    entry: str
    name: str
    values: list[float | None]
    """None: a version has not got it."""
    intervals: list[tuple[float, float] | None]
    apart: bool | None
    """Whether some interval has no value in common with the first; None where one is missing."""


def read_version(root: Path, name: str) -> Version:
    """Read settings and figures.

    Args:
        root: the project.
        name: a commit, branch or tag of Git, an experiment of DVC, or `WORKSPACE`.

    Raises:
        ConfigError: there is none of that name.
        CheckpointError: a file of it is damaged.
    """
    commit = None if name == WORKSPACE else _resolve(root, name)
    text = _read(root, commit, "params.yaml")
    if text is None:
        raise ConfigError(f"{name}: has no params.yaml")
    params = yaml.safe_load(text)
    if not isinstance(params, dict):
        raise CheckpointError(f"params.yaml of {name}: not a mapping")
    listed: dict[str, Mapping[str, float]] = {}
    figures: dict[str, Mapping[str, float]] = {}
    for entry, metrics, details in _evaluated(params):
        found = _read(root, commit, metrics.as_posix())
        if found is None:
            continue  # not evaluated
        listed[entry] = _as_figures(found, f"{metrics} of {name}")
        whole = _read_output(root, commit, details / DETAILS)
        known = _as_figures(whole, f"{details} of {name}", "figures") if whole else {}
        figures[entry] = {**known, **listed[entry]}
    return Version(name, params, listed, figures, commit)


def _evaluated(params: Mapping[str, object]) -> Iterator[tuple[str, Path, Path]]:
    """Each entry that has figures: its name, its metrics file and the folder of its details."""
    for name in entries_of(params, "align"):
        evaluation = paths.alignment_evaluation(name)
        yield f"alignment {name}", paths.alignment_metrics(name), evaluation
    for name in entries_of(params, "tasks"):
        yield f"task {name}", paths.task_metrics(name), paths.task_evaluation(name)


def _as_figures(text: str, what: str, key: str | None = None) -> dict[str, float]:
    try:
        document = json.loads(text)
        numbers = document if key is None else document[key]
        return {name: float(value) for name, value in numbers.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{what}: not a file of figures") from None


def _resolve(root: Path, name: str) -> str:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError, SCMError, resolve_rev

    try:
        with Repo(str(root)) as repo:
            try:
                return str(resolve_rev(repo.scm, name))
            except (RevError, SCMError):
                listed = repo.experiments.ls(all_commits=True).values()
                known = [str(name) for names in listed for name, _ in names]
    except DvcException as error:
        raise ConfigError(f"{root}: {' '.join(str(error).split())}") from None
    there = f"; experiments are {', '.join(sorted(known))}" if known else ""
    meant = nearest(name, [*known, WORKSPACE]) or there
    raise ConfigError(f"{name}: no commit, branch, tag or experiment{meant}")


def _read(root: Path, commit: str | None, path: str) -> str | None:
    """A file that Git has at a commit, or that lies on disk; None where there is none."""
    if commit is None:
        file = root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None
    done = run_command(["git", "--no-optional-locks", "show", f"{commit}:./{path}"], cwd=root)
    return None if done.returncode else done.stdout


def _read_output(root: Path, commit: str | None, path: Path) -> str | None:
    """An output of a stage; None where the cache of DVC on this machine has it not."""
    if commit is None:
        return _read(root, None, path.as_posix())
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        return str(dvc.api.read(path.as_posix(), repo=str(root), rev=commit, encoding="utf-8"))
    except (DvcException, DataIndexDirError, OSError, KeyError):
        return None


def read_curves(root: Path, version: Version) -> dict[str, dict[str, Series]]:
    """The curves of each training, by their entry and then by the names of `CURVES`.

    One that the cache of DVC on this machine has not, or that has no point, is left out.
    """
    found: dict[str, dict[str, Series]] = {}
    for group, word, place in (
        ("align", "alignment", paths.alignment_curves),
        ("tasks", "task", paths.task_curves),
    ):
        for name in entries_of(version.params, group):
            for curve in CURVES:
                text = _read_output(root, version.commit, place(name) / f"{curve}.csv")
                if text and (series := parse_curve(text)):
                    found.setdefault(f"{word} {name}", {})[curve] = series
    return found


def differing_settings(one: Version, other: Version) -> list[tuple[str, object, object]]:
    """Dotted key and both values; versions of libraries among them."""
    return list_differences(one.params, other.params)


def join_settings(versions: Sequence[Version]) -> list[tuple[str, list[object]]]:
    """Dotted key and the value of each version, where one differs from the first."""
    first, *others = versions
    differing = [
        {key: (one, other) for key, one, other in differing_settings(first, version)}
        for version in others
    ]
    rows = []
    for key in dict.fromkeys(key for found in differing for key in found):
        own = next(found[key][0] for found in differing if key in found)
        rows.append((key, [own, *(found.get(key, (own, own))[1] for found in differing)]))
    return rows


def pair_figures(*sides: Version, every: bool) -> list[FigurePair]:
    """The figures of two or more versions, one below the other.

    Args:
        sides: the versions.
        every: also those that Git does not record.
    """
    pairs: list[FigurePair] = []
    for entry in dict.fromkeys(entry for side in sides for entry in side.figures):
        known = [side.figures.get(entry, {}) for side in sides]
        chosen = known if every else [side.listed.get(entry, {}) for side in sides]
        for name in dict.fromkeys(name for side in chosen for name in side):
            if is_bound(name, {key: value for side in known for key, value in side.items()}):
                continue
            bounds = [interval_of(name, side) for side in known]
            pairs.append(
                FigurePair(
                    entry=entry,
                    name=name,
                    values=[side.get(name) for side in known],
                    intervals=bounds,
                    apart=_apart(bounds),
                )
            )
    return pairs


def _apart(intervals: Sequence[tuple[float, float] | None]) -> bool | None:
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None
    first, *others = known
    return any(first[1] < other[0] or other[1] < first[0] for other in others)


def say_figure(pair: FigurePair) -> tuple[str, str, str, str]:
    """A figure of two versions as the cells of a row: what it is, both, and what to think of it."""
    cells, name = [], pair["name"]
    for value, interval in zip(pair["values"], pair["intervals"], strict=True):
        ends = (
            f" ({printed(name, interval[0])} to {printed(name, interval[1])})" if interval else ""
        )
        cells.append("not there" if value is None else printed(name, value) + ends)
    note = {True: "intervals apart", False: "intervals overlap", None: ""}[pair["apart"]]
    first, second = pair["values"]
    if first is not None and second is not None and first == second:
        note = "equal"
    return f"{pair['entry']}  {full_label(pair['name'])}", cells[0], cells[1], note
