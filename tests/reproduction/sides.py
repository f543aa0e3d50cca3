"""Hand-made records and reruns: a small DAG with one branch beside the main line."""

from typing import Any

from plumbline.reproduction.compare import Outcome, Side
from plumbline.reproduction.lock import StageEntry

DONE = Outcome({})

SHAPE = {
    # stage -> what it reads, what it writes
    "draw": (["src/draw"], ["work/raw"]),
    "clean": (["src/clean", "work/raw"], ["work/clean", "work/quarantine"]),
    "train": (["src/train", "work/clean"], ["models/a"]),
    "measure": (["src/measure", "models/a"], ["work/evaluation/a", "metrics/tasks/a.json"]),
    "export": (["src/export", "models/a"], ["exports/a"]),
    "report": (["exports", "metrics", "work/quarantine"], ["report"]),
}

FIGURES = {"metrics/tasks/a.json": {"tasks/a:exact_match": 0.9, "tasks/a:questions": 100.0}}


def stages(**changed: str) -> dict[str, StageEntry]:
    """The lock; `changed` gives places another MD5, with `/` written as `__`.

    A stage that reads a changed output has the changed MD5 among its deps, as in a real lock.
    """
    other = {place.replace("__", "/"): md5 for place, md5 in changed.items()}

    def md5(place: str) -> str:
        return other.get(place, f"0{place}.dir" if "." not in place else f"0{place}")

    return {
        name: StageEntry(
            name,
            f"python -m stages.{name}",
            {dep: md5(dep) for dep in reads},
            {"params.yaml:seed": 0},
            {out: md5(out) for out in writes},
        )
        for name, (reads, writes) in SHAPE.items()
    }


def side(
    lock: dict[str, StageEntry] | None = None,
    figures: dict[str, dict[str, Any]] | None = None,
    files: dict[str, dict[str, str]] | None = None,
) -> Side:
    """One side of a comparison; `files` are the lists of folders by MD5."""
    return Side(
        stages() if lock is None else lock,
        FIGURES if figures is None else figures,
        (files or {}).get,
    )
