"""The README of a bundle: what it tells to type is typed, as it stands, for every kind of task."""

import json
import os
import re
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.files import dump_json, read_json
from tests.export.test_tasks import BOTH_FORMATS

EVERY_KIND = [
    "vlm",
    *(
        # An environment is made for each: together more than a minute.
        kind if kind == "text" else pytest.param(kind, marks=pytest.mark.slow)
        for kind in BOTH_FORMATS
    ),
]


@pytest.fixture(params=EVERY_KIND)
def copy(
    request: pytest.FixtureRequest,
    bundle: Path,
    bundle_of: Callable[..., Path],
    tmp_path: Path,
) -> Path:
    """A bundle of each kind, as somebody has it who got it."""
    made = bundle if request.param == "vlm" else bundle_of(request.param)
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def environment() -> dict[str, str]:
    """Of a machine without network, to which pip finds nothing to bring."""
    packages = os.pathsep.join({sysconfig.get_path("purelib"), *site.getsitepackages()})
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{keep['PATH']}"
    return {**keep, "PATH": path, "PYTHONPATH": packages, "PIP_NO_INDEX": "1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def blocks(folder: Path, language: str) -> list[str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_every_command_does_what_the_readme_says(copy: Path) -> None:
    shell, python = blocks(copy, "sh"), blocks(copy, "python")
    setup, ask, serve, container = shell
    from_python, from_another_terminal = python
    assert container.startswith("docker build")  # the one block that needs more than this machine
    done = subprocess.run(
        ["bash", "-euc", setup + ask + f"python - <<'END'\n{from_python}END\n"],
        cwd=copy,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, selftest, answer, again = done.stdout.splitlines()
    assert json.loads(selftest)["selftest"] == "ok"
    assert repr(json.loads(answer)) == again
    settings = read_json(copy / "server.json")
    settings["port"] = free_port()
    (copy / "server.json").write_text(dump_json(settings), encoding="utf-8")
    server = subprocess.Popen(
        ["bash", "-c", f"exec {serve}"],
        cwd=copy,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    try:
        assert server.stderr.readline().startswith("listening on")
        served = subprocess.run(
            [sys.executable, "-c", from_another_terminal],
            cwd=copy,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert served.returncode == 0, served.stderr
    assert served.stdout.strip() == answer


def test_a_line_of_a_batch_is_what_the_readme_shows(copy: Path) -> None:
    text = (copy / "README.md").read_text(encoding="utf-8")
    assert "$" not in text  # every word of the template is filled in
    found = re.search(r"lines such as\s+`(\{.*?\})`", text)
    assert found
    (copy / "requests.jsonl").write_text(found[1] + "\n", encoding="utf-8")
    command = [sys.executable, "inference.py", "--batch", "requests.jsonl"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True)
    assert "error" not in json.loads(done.stdout)
