"""The files of a project that plumbline brings: DAG, settings, scripts, a lock of the version."""

import difflib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from plumbline.disk_errors import describe_os_error
from plumbline.errors import ConfigError
from plumbline.files import atomic_write, dump_json
from plumbline.version import __version__

HERE = Path(__file__).parent
PACKAGED = HERE / "files"
"""Where a wheel has them; in a checkout of plumbline they are its own, at its root."""
CHECKOUT = HERE.parents[2]
LOCK = "plumbline.lock"

FOLDERS = ("conf", "stages", "sweeps")
FILES = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "plugins/README.md",
    "requirements.lock",
    "verify.yaml",
)
GENERATED = ("conf/versions.yaml",)
"""What `plumbline params` writes from the installed libraries."""
KEPT = ("data/.gitkeep", "exports/.gitkeep", "metrics/.gitkeep", "models/.gitkeep")
"""Folders that are there from the beginning, and stay."""

_DIGEST_CODE = "    cmd: python -m stages.digest_code\n"
_CORE = "      - src/plumbline\n"


def project_files() -> dict[str, str]:
    """Path in a project -> content, as this version of plumbline has them."""
    root = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    found = [Path(name) for name in FILES]
    for folder in FOLDERS:
        inside = (root / folder).rglob("*")
        found += [p.relative_to(root) for p in inside if p.suffix in (".py", ".yaml")]
    texts = {
        path.as_posix(): (root / path).read_text(encoding="utf-8")
        for path in sorted(found)
        if path.as_posix() not in GENERATED
    }
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    own = {"README.md": readme.replace("$version", __version__), **dict.fromkeys(KEPT, "")}
    return {**texts, **own, "dvc.yaml": _with_installed_core(texts["dvc.yaml"])}


def _with_installed_core(dag: str) -> str:
    """The DAG of a project whose core is installed, where DVC has no path of it to compare.

    `digest_code` runs on every repro instead; where the code is as it was, it writes the bytes of
    before and nothing else runs.
    """
    assert dag.count(_DIGEST_CODE) == dag.count(_CORE) == 1
    return dag.replace(_DIGEST_CODE, _DIGEST_CODE + "    always_changed: true\n").replace(_CORE, "")


class State(StrEnum):
    """What has become of one file of a project since plumbline wrote it."""

    NEW = "new"
    """This version has it, the project has not."""
    OUTDATED = "outdated"
    """This version has another content, and the project has that of before."""
    BOTH = "changed on both sides"
    """The project has changed it, and this version has too."""
    GONE = "gone"
    """This version has it no more, and the project has that of before."""


@dataclass(frozen=True)
class Change:
    """One file that is not as this version of plumbline would write it."""

    path: str
    state: State
    before: str
    after: str

    def diff(self) -> str:
        """From what the project has to what this version has."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            self.path,
            f"{self.path} of plumbline {__version__}",
        )
        return "".join(lines)


def read_lock(project: Path) -> tuple[str, dict[str, str]]:
    """The version that wrote a project's files, and their SHA-256 as it wrote them.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    file = project / LOCK
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return str(content["version"]), {str(k): str(v) for k, v in content["files"].items()}
    except FileNotFoundError:
        raise ConfigError(f"{file}: missing; plumbline init makes a project") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: not a lock of plumbline ({error})") from None


def write_files(project: Path, files: dict[str, str], lock: dict[str, str]) -> None:
    """Write files of a project and, last, the lock with their digests added to those in `lock`.

    Raises:
        OutputError: the disk is full, or may not be written.
    """
    for name, text in files.items():
        try:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise describe_os_error(error, project) from None
        atomic_write(project / name, text)
    digests = lock | {name: _digest(text) for name, text in files.items()}
    atomic_write(project / LOCK, dump_json({"version": __version__, "files": digests}))


def begin(project: Path) -> None:
    """Write the files of a new project into a folder, which may hold others.

    Raises:
        ConfigError: one of them is there already, or the folder is a file.
        OutputError: the disk is full, or may not be written.
    """
    if project.exists() and not project.is_dir():
        raise ConfigError(f"{project}: is a file; name a folder")
    files = project_files()
    for name in (*files, LOCK):
        if (project / name).exists():
            raise ConfigError(
                f"{project / name}: is there already; name another folder, or see plumbline "
                "upgrade for a project that there is"
            )
    write_files(project, files, {})


def changes(project: Path) -> Iterator[Change]:
    """What this version would change in a project's files; what the project alone edited stays.

    Raises:
        ConfigError: the folder is no project.
    """
    _, lock = read_lock(project)
    files = project_files()
    for name in sorted({*files, *lock}):
        place = project / name
        # What a user wrote need not be UTF-8: then it differs, and is shown as far as it can be.
        now = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else None
        then, written = files.get(name), lock.get(name)
        if now == then or (then is not None and written == _digest(then)):
            continue
        untouched = now is not None and _digest(now) == written
        if then is None:
            if untouched:
                yield Change(name, State.GONE, now or "", "")
        elif now is None and written is None:
            yield Change(name, State.NEW, "", then)
        else:
            yield Change(name, State.OUTDATED if untouched else State.BOTH, now or "", then)


def upgrade(project: Path) -> list[Change]:
    """Bring a project's files to this version where the project has not changed them itself.

    Returns:
        What is left to its owner: changed on both sides.

    Raises:
        ConfigError: the folder is no project.
        OutputError: the disk is full, or may not be written.
    """
    found = list(changes(project))
    _, lock = read_lock(project)
    for change in found:
        if change.state is State.GONE:
            (project / change.path).unlink()
            del lock[change.path]
    taken = {c.path: c.after for c in found if c.state in (State.NEW, State.OUTDATED)}
    write_files(project, taken, lock)
    return [change for change in found if change.state is State.BOTH]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
