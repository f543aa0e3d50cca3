"""Settings of a checkpoint of others: an entry of `weights`."""

import re
from pathlib import Path

from pydantic import field_validator, model_validator

from plumbline.config import Config
from plumbline.names import RULE, is_name

NOWHERE = "data/.gitkeep"
"""What `weights` of a training or a dataset, and `path` of a hub id, name instead of a folder."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


class WeightsConfig(Config):
    """Where a checkpoint lies: in a folder or file, or on the hub."""

    set: str
    """The trainings and datasets that name `work/weights/<set>` depend on it."""
    path: str
    """A folder, also one that DVC tracks or that this pipeline makes; a file of a state dict; with
    `hub` a file that never changes, since DVC wants a path."""
    hub: str | None = None
    """Owner and name on the hub, such as Qwen/Qwen3-0.6B."""
    revision: str | None = None
    """The commit on the hub: a branch or a tag would be other weights another day."""

    @field_validator("set")
    @classmethod
    def _folder(cls, name: str) -> str:
        if not is_name(name):
            raise ValueError(f"{name!r} is not a name that can be used: {RULE}")
        return name

    @model_validator(mode="after")
    def _one_place(self) -> "WeightsConfig":
        if self.hub is None:
            if self.revision is not None:
                raise ValueError("revision is of a hub id, and hub is null: set hub, or leave it")
            return self
        if self.revision is None or not _COMMIT.fullmatch(self.revision):
            raise ValueError(
                f"revision {self.revision!r} is not a commit of {self.hub}: give all 40 digits"
            )
        if Path(self.path).is_dir():
            raise ValueError(
                f"hub and the folder path {self.path!r} are both set: path {NOWHERE} for a hub id, "
                "or hub null for the folder"
            )
        return self


class WeightsEntry(Config):
    """An entry of `weights`, whole."""

    checkpoint: WeightsConfig
    """Where it lies."""
