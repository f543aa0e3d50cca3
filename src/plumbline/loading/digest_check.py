"""Large files whose digests are checked while a training already reads them."""

import threading
from collections.abc import Collection
from pathlib import Path

from plumbline.data.media_shards import SUFFIX
from plumbline.errors import DamagedInputError, PlumblineError
from plumbline.files import verify_digests

LARGE_BYTES = 64 << 20
"""What is read through in less than a tenth of a second is checked before it is used."""


def large_files(folder: Path, names: Collection[str]) -> list[str]:
    """Those of a folder's files that are worth no wait; one that is not there is none.

    A shard is no large file, but there are many.
    """
    there = [name for name in names if (folder / name).is_file()]
    return [
        name
        for name in there
        if name.endswith(SUFFIX) or (folder / name).stat().st_size > LARGE_BYTES
    ]


class DigestCheck:
    """A thread that reads files through and compares their digests."""

    def __init__(self, folder: Path, names: Collection[str], *, remedy: str | None = None) -> None:
        """Begin with these files of a published folder; `remedy` as of `verify_digests`."""
        self._folder, self._names, self._remedy = folder, names, remedy
        self._error: PlumblineError | None = None
        # It ends with the process, whatever it is at: nobody has published anything by then.
        self._thread = threading.Thread(target=self._run, name="digest-check", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            verify_digests(self._folder, names=self._names, remedy=self._remedy)
        except PlumblineError as error:
            self._error = error

    def confirm(self) -> None:
        """Wait for the result.

        Raises:
            DamagedInputError: a file is not as it was written.
        """
        self._thread.join()
        if self._error is not None:
            raise DamagedInputError(str(self._error))
