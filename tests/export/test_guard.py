"""What a bundle refuses before it imports anything: code that its digests do not name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.files import read_json, write_digests

TEMPLATES = Path(__file__).parents[2] / "src/plumbline/export/runtime"
PLANTED = "open({!r}, 'w').close()\n"
"""Code that leaves a trace where it runs."""

WAYS = {
    "script": ["inference.py", "--selftest"],
    "module": ["-m", "inference", "--selftest"],
    "safe path": ["-P", "inference.py", "--selftest"],
    "isolated": ["-I", "inference.py", "--selftest"],
    "server": ["server.py", "--port", "0"],
    "server as a module": ["-m", "server", "--port", "0"],
    "isolated server": ["-I", "server.py", "--port", "0"],
}
STRANGERS = [
    "json.py",
    "os.py",
    "hashlib.pyc",
    "argparse/__init__.py",
    "numpy/__init__.py",
    "guard.py",
    "_json.cpython-311-x86_64-linux-gnu.so",
    "runtime/x.py",
    "runtime/json.py",
    "runtime/guard/__init__.py",
    "runtime/__pycache__/model.cpython-311.pyc",
]


@pytest.fixture(scope="module")
def copy(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(bundle, tmp_path_factory.mktemp("planted") / "copy"))


def started(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("way", WAYS)
def test_code_that_the_digests_do_not_name_is_refused_before_it_runs(
    copy: Path, tmp_path: Path, way: str, name: str
) -> None:
    trace, planted = tmp_path / "trace", copy / name
    root = copy / Path(name).parts[0]
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(PLANTED.format(str(trace)), encoding="utf-8")
    try:
        done = started(copy, *WAYS[way])
    finally:
        planted.unlink()
        if planted.parent not in (copy, copy / "runtime"):
            planted.parent.rmdir()
    assert not trace.exists()
    assert done.returncode == 1
    assert done.stdout == ""
    said = name if planted.parent == copy or root != copy / "runtime" else name.split("/")[1]
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "not listed in digests.json, so nothing is imported beside it" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_program_that_imports_the_bundle_gets_an_error_that_it_can_catch(
    copy: Path, tmp_path: Path
) -> None:
    trace, planted = tmp_path / "trace", copy / "runtime/x.py"
    planted.write_text(PLANTED.format(str(trace)), encoding="utf-8")
    code = "try: import inference\nexcept ImportError as error: print(error)"
    try:
        done = started(copy, "-c", code, PYTHONDONTWRITEBYTECODE="1")
    finally:
        planted.unlink()
    assert done.stdout.startswith("runtime/x.py: not listed in digests.json")
    assert not trace.exists()


def test_what_is_no_code_of_the_bundle_may_lie_beside_it(copy: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(copy, tmp_path / "mine"))
    for name in (".venv/lib/json.py", "pictures/0.png", "requests.jsonl", "venv/lib/numpy.py"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("{}", encoding="utf-8")
    code = "from inference import Model; Model('.')"
    assert started(mine, "-c", code, PYTHONDONTWRITEBYTECODE="").returncode == 0
    assert (mine / "__pycache__").is_dir()  # Python's own, of the import
    assert json.loads(started(mine, "inference.py", "--selftest").stdout)["selftest"] == "ok"


def test_the_two_scripts_begin_alike() -> None:
    heads = []
    for name in ("inference.py", "server.py"):
        text = (TEMPLATES / name).read_text(encoding="utf-8")
        heads.append(text[text.index("# Nothing may be imported") : text.index("import argparse")])
    assert heads[0] == heads[1]
    before = [line for line in heads[0].splitlines() if "import" in line and line[0] != "#"]
    assert before == ["import sys", "import os"]


def test_the_first_imports_are_part_of_the_interpreter() -> None:
    code = "import sys; print('os' in sys.modules, 'os' in sys.stdlib_module_names)"
    done = started(Path(), "-I", "-c", code)
    assert done.stdout == "True True\n"


@pytest.mark.parametrize("script", ["inference.py", "server.py"])
@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{}", b'"x"', b"3", b'{"a": null}', b'{"a": 3}', b"\xff", b"[" * 99999],
)
def test_odd_digests_are_one_line(copy: Path, tmp_path: Path, script: str, content: bytes) -> None:
    kept = (copy / "digests.json").read_bytes()
    (copy / "digests.json").write_bytes(content)
    try:
        done = started(copy, script)
    finally:
        (copy / "digests.json").write_bytes(kept)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: digests.json: ")
    assert done.stderr.count("\n") == 1


def test_names_out_of_a_damaged_bundle_reach_the_terminal_escaped(
    copy: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(copy, tmp_path / "mine"))
    selftest = read_json(mine / "selftest/selftest.json")
    selftest["answers"][0]["name"] = "\x1b[2J\u202egnp"
    selftest["answers"][0]["answer"] = {}
    (mine / "selftest/selftest.json").write_text(json.dumps(selftest), encoding="utf-8")
    write_digests(mine)
    done = started(mine, "inference.py", "--selftest")
    assert done.stderr.startswith("error: \\x1b[2J\\u202egnp: answered")
    assert done.stderr.rstrip("\n").isprintable()
