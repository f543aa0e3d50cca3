"""What an operating system refuses to write, in one line with the remedy."""

import errno
import resource
from pathlib import Path

from plumbline.errors import OutputError, PlumblineError

_NO_ROOM = {
    errno.ENOSPC: "the disk is full; free some space (plumbline gc lists what can go) and "
    "run again",
    errno.EDQUOT: "the quota of this account is used up; free some space (plumbline gc lists what "
    "can go) or have it raised, and run again",
    errno.EFBIG: "larger than a file may be here; raise the limit (ulimit -f unlimited) and run "
    "again",
}
_SAID = {
    "No space left on device": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
}


def refused_write(error: BaseException | None) -> int | None:
    """Why there was no room for what should be written: ENOSPC, EDQUOT or EFBIG.

    None where neither an error nor one that led to it says so, or where one names another cause.
    SQLite, safetensors and tokenizers have errors of their own for it, the last a bare Exception.
    """
    while error is not None:
        if isinstance(error, PlumblineError) and error.names_cause:
            return None
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error.errno
        for words, code in _SAID.items():
            if words in str(error):
                return code
        if _is_limited(error):
            return errno.EFBIG
        error = error.__cause__ or error.__context__
    return None


def _is_limited(error: BaseException) -> bool:
    """Whether SQLite, which keeps the reason to itself, met the limit on file sizes."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_IOERR")
    return failed and limit != resource.RLIM_INFINITY


def describe_os_error(error: OSError, out: Path) -> OutputError:
    """Turn an operating-system failure while writing `out` into one line with the remedy."""
    if (code := refused_write(error)) is not None:
        return OutputError(f"{out}: {_NO_ROOM[code]}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{out}: cannot be written ({error.strerror}); check its permissions")
    return OutputError(f"{out}: {error.strerror or error} ({error.filename or 'no file named'})")
