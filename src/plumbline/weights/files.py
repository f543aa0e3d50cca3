"""The files of a checkpoint: those that its model, tokenizer and processor are read from."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TypedDict

from plumbline.errors import ConfigError
from plumbline.files import sha256_file

FILE_NAME = "tokenizer.json"
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    FILE_NAME,
    "tokenizer_config.json",
)
"""What a tokenizer and its template of turns are read from."""
LAYERS = "0_Transformer"
"""Where older folders of sentence-transformers have model and tokenizer."""
READ = ("*.json", "*.jinja", "*.safetensors")
"""What is read of a checkpoint; never code, and no pickle, which could run some."""
PASSED_OVER = ("onnx/*", "openvino/*", "*/.*", ".*", "checkpoint-*", "runs/*")
"""Other forms of the same weights, and what trainings leave."""

STORED = ("model.json", "model.safetensors", "tokenizer.json", "pretrained/*")
"""What is read of a model that this pipeline made."""


class FileFacts(TypedDict):
    """What tells a file from another."""

    bytes: int
    sha256: str


Files = Mapping[str, FileFacts]
"""Names within the checkpoint, with / between folders."""


def list_files(path: Path) -> list[Path]:
    """The files of a checkpoint that are read, by name.

    Raises:
        ConfigError: there are none, or only pickles.
    """
    if path.is_file():
        return [path]
    patterns = STORED if (path / "model.json").is_file() else READ
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and _is_read(file.relative_to(path).as_posix(), patterns)
    ]
    if found:
        return found
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder")
    pickles = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)]
    if pickles:
        raise ConfigError(f"{path}: {pickles[0]} is a pickle; save the model as safetensors")
    raise ConfigError(f"{path}: holds no checkpoint ({', '.join(READ)})")


def _is_read(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, p) for p in patterns) and not any(
        fnmatch(name, p) for p in PASSED_OVER
    )


def describe_files(path: Path) -> Files:
    """Size and digest of every file of a checkpoint that is read.

    Raises:
        ConfigError: as `list_files`.
    """
    root = path if path.is_dir() else path.parent
    return {
        file.relative_to(root).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": sha256_file(file),
        }
        for file in list_files(path)
    }


def of_tokenizer(files: Files) -> Files:
    """Those of a tokenizer."""
    own = {name: name.removeprefix(f"{LAYERS}/") for name in files}
    return {name: facts for name, facts in files.items() if own[name] in TOKENIZER_FILES}
