"""A checkpoint that has been resolved: its folder, once its files are those that were recorded."""

from dataclasses import dataclass
from pathlib import Path

from plumbline.config import check_config
from plumbline.errors import ConfigError
from plumbline.files import read_json, sha256_file
from plumbline.params import read_params
from plumbline.weights.files import FILE_NAME, LAYERS, Files
from plumbline.weights.hub import fetch
from plumbline.weights.settings import WeightsConfig, WeightsEntry


@dataclass(frozen=True)
class Checkpoint:
    """Files to start from, and what they hold."""

    path: Path
    """The folder, or the file of a state dict."""
    files: Files

    @property
    def tokenizer(self) -> Path:
        """The folder of its tokenizer."""
        return _of_tokenizer(self.path, self.files)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 by name."""
        return {name: facts["sha256"] for name, facts in self.files.items()}


def _of_tokenizer(path: Path, files: Files) -> Path:
    return path / LAYERS if f"{LAYERS}/{FILE_NAME}" in files else path


def tokenizer_folder(folder: Path, name: str) -> Path:
    """The folder of the tokenizer of an entry of `weights` whose files have been checked.

    Args:
        folder: with the records, such as work/weights/<set>.
        name: of the entry.
    """
    return _of_tokenizer(locate(_entry(name)), read_json(folder / f"{name}.json")["files"])


def locate(config: WeightsConfig) -> Path:
    """The folder or file of a checkpoint.

    Raises:
        ConfigError: it is on the hub and cannot be had.
    """
    if config.hub is None:
        return Path(config.path)
    assert config.revision is not None, "the settings see to it"
    return fetch(config.hub, config.revision)


def _entry(name: str) -> WeightsConfig:
    sections = {"checkpoint": f"weights.{name}"}
    return check_config(WeightsEntry, sections, read_params(Path.cwd())).checkpoint


@dataclass(frozen=True)
class Base:
    """A checkpoint as others know it, so that they can have what an adapter belongs to."""

    name: str
    """Its id on the hub, or that of the entry of `weights`."""
    revision: str | None
    """Its commit on the hub."""
    files: Files


def known_as(folder: Path, name: str) -> Base:
    """What others know the checkpoint of an entry of `weights` by.

    Args:
        folder: with the records, such as work/weights/<set>.
        name: of the entry.
    """
    config, record = _entry(name), read_json(folder / f"{name}.json")
    return Base(config.hub or name, config.revision, record["files"])


def open_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Find the files of an entry of `weights` and make sure that they are those of its record.

    Where they lie stands in params.yaml and is no part of a training's key: what they hold is.

    Args:
        folder: with the records, such as work/weights/<set>.
        name: of the entry.

    Raises:
        ConfigError: there is no such entry or record, or a file is missing or another one.
    """
    record = folder / f"{name}.json"
    if not record.is_file():
        raise ConfigError(f"{record}: missing; run dvc repro resolve_weights@{name}")
    path = locate(_entry(name))
    files: Files = read_json(record)["files"]
    root = path if path.is_dir() else path.parent
    for file, facts in files.items():
        if not (root / file).is_file():
            raise ConfigError(f"{root / file}: gone since resolve_weights@{name} saw it")
        if sha256_file(root / file) != facts["sha256"]:
            raise ConfigError(
                f"{root / file}: changed since resolve_weights@{name} saw it; run dvc repro"
            )
    return Checkpoint(path, files)
