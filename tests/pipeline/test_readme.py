"""The commands of the README do what it says, as they stand, on the smoke preset."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.checkout import ENVIRONMENT, ROOT, Checkout

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"(make|dvc|plumbline|python|\.) [^`]*")
NOT_RUN = {
    "make test": "this is it",
    "make coverage": "this is it",
    "make test-all": "this is it",
    "make mlflow": "a server, which does not end",
    "make verify": "the default pipeline in a clean clone; test_certificate.py does smoke",
    "make verify PRESET=smoke": "the smoke preset twice; test_certificate.py does it",
    "make faults": "hundreds of kills; tests/faults runs a few",
    "make check": "the linters, which the workflow runs",
    "plumbline try vqa": "a server, which does not end; tests/export/test_page.py has it",
    "plumbline sweep vqa_lr": "24 trainings; test_sweep.py runs a small sweep",
    "plumbline init my-project && cd my-project": "test_package.py makes one",
    "plumbline upgrade": "of such a project; tests/project has it",
    "dvc push --run-cache": "needs a remote; test_remotes.py has one",
    "dvc repro --pull": "needs a remote; test_remotes.py has one",
    "dvc exp run -S experiment=NAME": "NAME is any of the table below it",
    ". .venv/bin/activate": "tests have their environment",
    "plumbline import": "data of the reader's own; tests/importing",
    "plumbline init .": "test_first_screen.py runs the four commands of the first screen",
    "plumbline import ~/photos": "the same",
    "plumbline run photos": "the same",
    "plumbline run photos -S tasks.photos.train.trainer.epochs=1": "the same",
    "make docs": "its own environment, from the network; .ci/run builds it",
    "dvc add data/mine": "data of the reader's own",
    "dvc exp run -S experiment=mine": "data of the reader's own",
}
"""Command -> why it is not run here."""


def commands() -> list[str]:
    """Each command line of the README once: in blocks as a whole, within a sentence between ``."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if not language]
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", prose)
    return list(dict.fromkeys(line.strip() for line in lines if COMMAND.fullmatch(line.strip())))


RUN = [command for command in commands() if command not in NOT_RUN]


@pytest.fixture(scope="module")
def checkout(reproduced: Checkout) -> Checkout:
    """As after the two commands, with the environment of these tests."""
    folder = reproduced.folder
    if not (Path(sys.prefix) / ".ready").is_file():
        pytest.skip("the environment is not one of make setup")
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("requirements.lock", "pyproject.toml", "tools/check_machine.py"):
        os.utime(folder / name, (0, 0))  # make: the environment is newer
    return reproduced


def test_what_is_not_run_is_in_the_readme() -> None:
    assert set(NOT_RUN) <= set(commands())
    assert len(RUN) > 12


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_readme_works_as_it_stands(checkout: Checkout, command: str) -> None:
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=checkout.folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if "queue start" in command:
        _wait_for_the_queue(checkout)


def _wait_for_the_queue(checkout: Checkout) -> None:
    deadline = time.monotonic() + 600
    while True:
        status = checkout.run("dvc", "queue", "status").stdout
        if "Running" not in status and "Queued" not in status:
            break
        assert time.monotonic() < deadline, status
        time.sleep(2)
    assert status.count("Success") == 2, status
