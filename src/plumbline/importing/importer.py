"""From a path to the files of a dataset: look, try, propose, write."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from plumbline import paths
from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.importing.drafts import Asked, Draft
from plumbline.importing.layouts import recognise
from plumbline.importing.plans import view_of
from plumbline.importing.proposals import propose
from plumbline.importing.sizes import Sizes, this_machine
from plumbline.importing.subjects import Proposal, Subject
from plumbline.importing.tables import Settings
from plumbline.importing.trial import Trial, try_rows
from plumbline.importing.written import written_files
from plumbline.names import MAX_NAME_CHARS, check_name, is_name
from plumbline.objects.settings import ObjectsConfig

_UNNAMED = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Import:
    """What was found, what became of its first rows, and what is proposed."""

    name: str
    draft: Draft
    trial: Trial
    proposal: Proposal | None
    """None: validation would fail, as `trial.problem` says."""
    files: Mapping[str, str]
    machine: str


def name_of(path: Path) -> str:
    """A name for a dataset that lies at a path."""
    plain = _UNNAMED.sub("_", path.resolve().stem if path.is_file() else path.resolve().name)
    name = plain.strip("_-")[:MAX_NAME_CHARS]
    return name if is_name(name) else "imported"


def look(
    path: Path,
    name: str,
    asked: Asked,
    project: Path,
    rules: Settings,
    stored: ObjectsConfig | None = None,
) -> Import:
    """Recognise a dataset, try its first rows, and propose settings; nothing is written.

    Args:
        path: a folder or a file.
        name: of the dataset, the task and the experiment.
        asked: what the command line says.
        project: its root; a dataset within it is named from there.
        rules: settings of validation that are asked for.
        stored: the object store of which `path` is the copy; None: it lies where it is.

    Raises:
        ConfigError: no layout that is known, or nothing that can be learned.
        DataError: a file cannot be read, or there is no row.
    """
    check_name("--name", name)
    if project.resolve().is_relative_to(path.resolve()):
        raise ConfigError(
            f"{path.as_posix()}: holds this project; name the folder of the data alone"
        )
    draft = recognise(path, asked)
    if stored and draft.path != path:
        raise ConfigError(f"{path.as_posix()}: names files beside it; import the prefix above it")
    trial = _try(draft, rules)
    if trial.parted_groups and "group" in draft.columns and "group" not in asked.roles:
        # The data's own split mixes them: a validation split that holds whole ones out would
        # measure what the test does not, and keep them from the training.
        parted = f"{trial.parted_groups} of its values stand in several of the given splits"
        draft = draft.without_group(parted)
        trial = _try(draft, rules)
    machine = this_machine()
    if trial.problem:
        return Import(name, draft, trial, None, {}, machine.words)
    if trial.whole:
        draft = replace(draft, rows=trial.rows, exact=True)
    sizes = Sizes(train_rows(draft, trial), machine, trial)
    there = _splits(draft, trial)
    split = next(one for one in ("test", "val", "train") if one in there)
    if split == "train":
        draft.notes.append(
            "all rows belong together (one medium, or one group): no split can be drawn, and the "
            "figures will be of what was trained on"
        )
    subject = Subject(name, draft, sizes, split, dict(rules), validates="val" in there)
    proposal = propose(subject)
    place = paths.objects(name).as_posix() if stored else place_of(draft.path, project)
    files = written_files(subject, proposal, place, stored)
    return Import(name, draft, trial, proposal, files, machine.words)


def _try(draft: Draft, rules: Settings) -> Trial:
    views = view_of(draft.plan, draft.made)
    return try_rows(draft.path, draft.prepare, {"views": views, **rules})


def train_rows(draft: Draft, trial: Trial) -> int:
    """Clean rows that there will be to train on, at least one.

    Of splits that files say, as many rows of each were tried, however many there are: only what is
    drawn from the rest, such as a validation split that no file has, is a share of the trial.
    """
    trained = trial.splits.get("train", 0)
    if trial.whole:
        return max(1, trained)
    clean = sum(trial.splits.values()) / max(1, trial.rows)
    drawn = sum(rows for split, rows in trial.splits.items() if split not in draft.split_rows)
    before = trained + drawn if draft.split_rows else sum(trial.splits.values())
    rows = draft.split_rows.get("train", draft.rows)
    return max(1, int(rows * clean * trained / max(1, before)))


def _splits(draft: Draft, trial: Trial) -> set[str]:
    """The splits that there will be, also those that no row of the trial is in."""
    return {*draft.splits, *trial.splits}


def place_of(path: Path, project: Path) -> str:
    """A dataset's path as the settings name it: from the project, or from the root."""
    whole = path.resolve()
    root = project.resolve()
    return (whole.relative_to(root) if whole.is_relative_to(root) else whole).as_posix()


def check_written(project: Path, name: str) -> None:
    """Check all settings of the experiment as the stages will.

    Raises:
        ConfigError: they contradict each other or the project.
    """
    from plumbline.stages.check_params import check_settings

    check_settings(compose_yaml(project / "conf", "config", [f"experiment={name}"]))
