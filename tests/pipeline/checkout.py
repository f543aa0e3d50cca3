"""A checkout of this working tree in a temporary folder, with the smoke preset as its default."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("conf", "data", "metrics", "src", "stages", ".dvc", ".dvcignore", ".gitignore", "dvc.yaml")

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


@dataclass(frozen=True)
class Checkout:
    """A folder in which stages and dvc run."""

    folder: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
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
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def make_checkout(folder: Path) -> Checkout:
    """Copy the working tree, choose the smoke preset, compose params.yaml, commit."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "cache", "tmp", "*.json")
            shutil.copytree(source, folder / part, ignore=ignore)
        else:
            shutil.copy(source, folder / part)
    checkout = Checkout(folder)
    checkout.replace("conf/config.yaml", "experiment: null", "experiment: smoke")
    checkout.run("git", "init", "-q")
    checkout.run(sys.executable, "-m", "stages.check_params", "--write")
    checkout.commit("Start from the smoke preset")
    return checkout
