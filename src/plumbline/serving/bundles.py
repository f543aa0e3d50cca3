"""Finding a bundle that answers."""

import shutil
from pathlib import Path

from plumbline import paths
from plumbline.errors import ConfigError
from plumbline.files import DIGESTS, read_json, verify_digests
from plumbline.running.checks import nearest


def find_bundle(name: str) -> Path:
    """The folder of a bundle that has a server.

    Args:
        name: of a task or an alignment of params.yaml, as `align.image` where a task has the same
            name; or the folder itself.

    Raises:
        ConfigError: there is none; the text names those that there are.
    """
    places = (paths.export(name), paths.alignment_export(name.removeprefix("align.")), Path(name))
    for folder in places:
        if (folder / "server.py").is_file():
            return folder
    exports = paths.export(name).parent
    servers = sorted([*exports.glob("*/server.py"), *exports.glob("*/*/server.py")])
    known = [".".join(file.parent.relative_to(exports).parts) for file in servers]
    if paths.export(name).is_dir():
        raise ConfigError(f"{paths.export(name)}: weights alone; set export.formats for a server")
    if paths.alignment_export(name).is_dir():
        raise ConfigError(
            f"{paths.alignment_export(name)}: no bundle; set align.{name}.export.enabled to true"
        )
    there = f" (there is {', '.join(known)})" if known else f"; plumbline run makes {exports}/"
    raise ConfigError(f"{name}: no bundle{nearest(name, known)}{there}")


def check_format(bundle: Path, format: str | None) -> None:
    """Refuse a format that a bundle does not have.

    Raises:
        ConfigError: it has others.
    """
    known = read_json(bundle / "contract.json")["formats"]
    if format is not None and format not in known:
        raise ConfigError(f"--format {format}: {bundle} has only {', '.join(known)}")


def copy_bundle(bundle: Path, out: Path) -> None:
    """Copy the files that a bundle's digests name: not what lies there too, such as a `.venv`.

    Args:
        bundle: its folder.
        out: a new folder.

    Raises:
        CheckpointError: a file has changed.
    """
    digests = verify_digests(bundle, remedy="copy the whole bundle again")
    for name in (*digests, DIGESTS):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, out / name)
