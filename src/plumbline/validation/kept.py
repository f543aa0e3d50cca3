"""What is kept of a validation, so that one that was ended goes on, and a grown table costs little.

It lies beside the outputs: nothing that a stage writes depends on it.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from plumbline.files import digest_of
from plumbline.validation.pass_one import NOTES
from plumbline.validation.settings import ValidationConfig


class Kept(NamedTuple):
    """Where notes on rows are kept for later runs."""

    folder: Path
    """Of one dataset; it is made where it is not there."""
    code: str
    """Digest of all code that judges rows."""

    def place(self, config: ValidationConfig) -> Path:
        """The folder for notes by these rules; those by others are removed."""
        # Whatever is settled between rows has no part in what is noted of each.
        rules = config.model_dump(mode="json", exclude={"max_dropped_share", "split", "leaks"})
        near = [bool(config.leaks.near_images), bool(config.leaks.near_texts)]
        place = self.folder / digest_of([self.code, rules, config.split.seed, near])[:16]
        place.mkdir(parents=True, exist_ok=True)
        for other in self.folder.iterdir():
            if other != place:
                shutil.rmtree(other)
        return place


@contextmanager
def notes_folder(kept: Kept | None, config: ValidationConfig, scratch: Path) -> Iterator[Path]:
    """The folder for notes: that of `kept`, or one below `scratch` that goes with it."""
    if kept is not None:
        yield kept.place(config)
        return
    folder = scratch / "notes"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def forget_others(used: Iterable[Path], folder: Path) -> None:
    """Remove the notes of rows that are no longer there."""
    for path in set(folder.glob(f"*{NOTES}")) - set(used):
        path.unlink()
