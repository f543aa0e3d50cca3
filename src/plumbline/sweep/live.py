"""Intermediate values of running experiments, from the live records of their stages."""

import json
from collections.abc import Mapping
from pathlib import Path

from plumbline.sweep.config import SweepConfig
from plumbline.tracking.forwarders import RUNS
from plumbline.tracking.record import file_name


class LiveValues:
    """Follows the records of a sweep's runs; each line is read once."""

    def __init__(self, root: Path, config: SweepConfig) -> None:
        """Follow the records below `root`, which is the workspace's for queued runs too."""
        self._root, self._config = root, config
        self._offsets: dict[Path, int] = {}
        self._values: dict[str, dict[int, float]] = {}

    def of(self, run: str) -> list[float]:
        """The values of the series so far, oldest first, in the direction of the sweep.

        A run that was resumed has several records: the last says what counts at a step.
        """
        prune = self._config.prune
        if prune is None:
            return []
        sign = 1.0 if prune.direction == self._config.direction else -1.0
        stage, _, key = prune.stage.partition("@")
        stem = file_name(stage) + (f"@{file_name(key)}" if key else "")
        found = self._values.setdefault(run, {})
        # The folder is <time>-<experiment>-<pid>, so names sort by time.
        for path in sorted((self._root / RUNS).glob(f"*-{file_name(run)}-*/{stem}-*.jsonl")):
            for event in self._events(path):
                values, step = event.get("values"), event.get("step")
                value = values.get(prune.value) if isinstance(values, Mapping) else None
                if event.get("event") != "metrics" or not isinstance(step, int):
                    continue
                if isinstance(value, int | float):
                    found[step] = sign * value
        return [found[step] for step in sorted(found)]

    def _events(self, path: Path) -> list[dict[str, object]]:
        offset = self._offsets.get(path, 0)
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may still be being written
        self._offsets[path] = offset + len(whole)
        return [json.loads(line) for line in whole.splitlines()]
