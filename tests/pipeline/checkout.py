"""A checkout of this working tree in a temporary folder, with the smoke preset as its default."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("DVC_")},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PLUMBLINE_TRACKING": "off",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
}
STAGES = [
    "prepare scenes",
    "validate scenes",
    "detect_shapes scenes",
    "tokenize_text scenes",
    "pretrain_alignment image",
    "evaluate_alignment image",
    "export_alignment image",
    "finetune vqa",
    "evaluate_model vqa",
    "export_model vqa",
    "report",
]
"""Stage and key of all that the smoke preset runs behind `check_params`."""


@dataclass(frozen=True)
class Checkout:
    """A folder in which stages and dvc run."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=lambda: ENVIRONMENT)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *command: str, errors: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )

    def stages_run(self, *command: str) -> list[str]:
        """Names of the stages that a dvc command ran, not those restored from the run cache."""
        output = self.run(*command).stdout
        return re.findall(r"^Running stage '([^']+)'", output, flags=re.MULTILINE)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def replace(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")


def make_checkout(folder: Path) -> Checkout:
    """Copy the working tree, choose the smoke preset, compose params.yaml, commit."""
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        # The lock and the metrics are the full preset's; a deleted file may still be listed.
        if name != "dvc.lock" and not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for metrics in (folder / "metrics").rglob("*.json"):
        metrics.unlink()
    checkout = Checkout(folder)
    checkout.replace("conf/config.yaml", "experiment: null", "experiment: smoke")
    checkout.run("git", "init", "-q")
    checkout.run(sys.executable, "-m", "stages.check_params", "--write")
    checkout.commit("Start from the smoke preset")
    return checkout
