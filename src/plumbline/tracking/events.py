"""The events of a run record, and what of them MLflow is told."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

from plumbline.tracking.run_store import Metric, as_text, flatten


def read_events(path: Path, offset: int) -> Iterator[tuple[dict[str, object], int]]:
    """Yield (event, offset behind it) from `offset` on; a broken line is an empty event.

    A last line without a line break is left alone: it may still be growing.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            yield (event if isinstance(event, dict) else {}), offset


def _is_number(value: object) -> TypeGuard[str | float]:
    """Whether a recorded value is a number; a digest made of digits is none."""
    if isinstance(value, str):
        return value in ("nan", "inf", "-inf")
    return isinstance(value, int | float) and not isinstance(value, bool)


def metrics_of(event: Mapping[str, object], step: int, prefix: str = "") -> list[Metric]:
    """The numbers of an event as points of series at optimiser step `step`."""
    leaves = flatten(mapping_of(event, "values"))
    return [Metric(prefix + k, float(v), time_ms(event), step) for k, v in leaves if _is_number(v)]


def tags_of(event: Mapping[str, object]) -> dict[str, str]:
    """The values of an event that are no numbers."""
    leaves = flatten(mapping_of(event, "values"))
    return {key: as_text(v) for key, v in leaves if not _is_number(v) and v is not None}


def start_tags(event: Mapping[str, object]) -> dict[str, str]:
    """What the first event of a record says of its run."""
    label = "@".join(str(event[part]) for part in ("stage", "key") if event.get(part))
    groups = ("dvc", "git", "versions", "host", "python", "cpu", "cores", "threads", "pid")
    leaves = flatten({group: event[group] for group in groups if group in event})
    tags = {key: as_text(value) for key, value in leaves if value is not None}
    if "git.commit" in tags:
        tags["mlflow.source.git.commit"] = tags["git.commit"]
    return {"dvc.stage": label, **tags}


def time_ms(event: Mapping[str, object]) -> int:
    """When it was recorded, in ms since 1970; 0 where a broken line does not say."""
    time_s = event.get("time")
    return round(time_s * 1000) if isinstance(time_s, int | float) else 0


def step_of(event: Mapping[str, object]) -> int:
    """The optimiser step that its values belong to."""
    step = event.get("step")
    return step if isinstance(step, int) else 0


def mapping_of(event: Mapping[str, object], name: str) -> Mapping[str, object]:
    """A part of an event that holds values by name; a broken line has none."""
    part = event.get(name)
    return part if isinstance(part, Mapping) else {}
