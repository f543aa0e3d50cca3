"""What the README says of the project is what the project says of itself."""

import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import check_machine

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_pythons_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first, last = check_machine.supported_minors()
    assert project["requires-python"] == f">=3.{first},<3.{last + 1}"
    assert f"Python 3.{first} to 3.{last}" in README
    assert not re.search(r"3\.\d+", (ROOT / "src/plumbline/params.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("version", "good"), [((3, 10), False), ((3, 11), True), ((3, 14), False)])
def test_a_python_that_is_not_supported_is_refused_with_the_remedy(
    version: tuple[int, int], good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_machine, "NEEDED_GB", 0)
    here = SimpleNamespace(
        version_info=(*version, 0), argv=["check_machine.py", str(ROOT)], exit=sys.exit
    )
    monkeypatch.setattr(check_machine, "sys", here)
    if good:
        check_machine.main()
        return
    with pytest.raises(SystemExit, match=r"^error: Python 3\.\d+ found, 3\.11 to 3\.\d+ needed"):
        check_machine.main()


def test_too_little_disk_is_said_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_machine, "NEEDED_GB", 10**9)
    monkeypatch.setattr(sys, "argv", ["check_machine.py", str(ROOT)])
    with pytest.raises(SystemExit, match=r"^error: .* GB free in .* need 1000000000 GB$"):
        check_machine.main()
