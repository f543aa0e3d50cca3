"""A bundle as an archive for TorchServe, which is archived upstream itself, and its settings."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import ConfigError, OutputError
from plumbline.files import atomic_write, read_json
from plumbline.scratch import scratch_folder
from plumbline.serving.bundles import check_format, copy_bundle
from plumbline.waiting import run_command

ARCHIVER = "torch-model-archiver"
HANDLER = Path(__file__).parent / "torchserve_handler.py"

MODEL_CONFIG = """\
minWorkers: {workers}
maxWorkers: {workers}
batchSize: 1
responseTimeout: {timeout_s}
"""

SERVER_CONFIG = """\
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
max_request_size={max_bytes}
max_response_size={max_bytes}
install_py_dep_per_model=false
allowed_urls=file://.*
model_store=.
load_models={name}.mar
"""


@dataclass(frozen=True)
class Archive:
    """What was written."""

    archive: Path
    config: Path


def find_archiver() -> str | None:
    """The program that writes archives, where it is installed."""
    beside = shutil.which(ARCHIVER, path=str(Path(sys.executable).parent))
    return beside or shutil.which(ARCHIVER)


def write_archive(bundle: Path, out: Path, name: str, format: str | None = None) -> Archive:
    """Write `<name>.mar` and `config.properties` into a folder.

    Args:
        bundle: its folder.
        out: gets both files.
        name: of the model in TorchServe.
        format: of the graphs that will answer; None: the bundle's default.

    Raises:
        CheckpointError: a file of the bundle has changed.
        ConfigError: the bundle has no such format, or `torch-model-archiver` is not installed.
        OutputError: it failed.
    """
    check_format(bundle, format)
    archiver = find_archiver()
    if archiver is None:
        raise ConfigError(
            f"{ARCHIVER}: not installed; pip install {ARCHIVER} (TorchServe is archived upstream: "
            "for a new service take the bundle's own server or MLflow)"
        )
    settings = read_json(bundle / "server.json")
    out.mkdir(parents=True, exist_ok=True)
    with scratch_folder(str(out)) as folder:  # on one disk with it, so that a rename publishes
        # The folder `bundle` inside of the one whose content goes to the top of the archive.
        copy_bundle(bundle, folder / "files" / "bundle")
        atomic_write(folder / "model-config.yaml", _model_config(settings, format))
        command = [archiver, "--model-name", name, "--version", "1.0", "--handler", str(HANDLER)]
        command += ["--extra-files", str(folder / "files")]
        command += ["--requirements-file", str(bundle / "requirements.txt")]
        command += ["--config-file", str(folder / "model-config.yaml")]
        command += ["--export-path", str(folder), "--archive-format", "default"]
        done = run_command(command)
        made = folder / f"{name}.mar"
        if done.returncode or not made.is_file():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise OutputError(f"{ARCHIVER}: {said[-1] if said else done.returncode}")
        archive = out / f"{name}.mar"
        made.replace(archive)
    config = out / "config.properties"
    atomic_write(config, _server_config(settings, name))
    return Archive(archive, config)


def _model_config(settings: Mapping[str, float], format: str | None) -> str:
    text = MODEL_CONFIG.format(
        workers=settings["max_concurrent"],
        # Whole seconds: TorchServe replaces a worker that takes longer.
        timeout_s=max(1, round(settings["answer_timeout_s"])),
    )
    return text + (f"handler:\n  format: {format}\n" if format else "")


def _server_config(settings: Mapping[str, float], name: str) -> str:
    port = int(settings["port"])
    return SERVER_CONFIG.format(
        port=port,
        management=port + 1,
        metrics=port + 2,
        max_bytes=settings["max_body_bytes"],
        name=name,
    )
