"""A bundle opened by this process: with the code of its kind in place of the copy beside it."""

from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.export.runtime.model import Model
from plumbline.files import read_json
from plumbline.kind import known_kinds
from plumbline.kinds.vlm.runtime import VlmTask
from plumbline.kinds.vlm.talk_runtime import TalkTask


def model_of(folder: Path, **options: Any) -> Model:
    """The model of a bundle; of a damaged one what becomes of it as one of the default pipeline."""
    try:
        name = read_json(folder / "contract.json")["task"]
        task = TalkTask if name == TalkTask.name else known_kinds()[name].role("runtime").TASK
    except (PlumblineError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        task = VlmTask
    return Model(folder, task_class=task, **options)
