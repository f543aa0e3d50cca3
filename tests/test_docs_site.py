"""The docs site is built without a warning, and a dead link in a page stops it."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs/_build/venv/bin/python"
"""What `make docs` makes; Sphinx is no part of the project's own environment."""


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (options,) = [line for line in makefile.splitlines() if "-m sphinx" in line]
    flags = options.partition("-m sphinx ")[2].removesuffix("docs docs/_build/html").split()
    assert "--fail-on-warning" in flags
    assert "--nitpicky" in flags
    command = [DOCS, "-m", "sphinx", *flags, root / "docs", out]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    if not DOCS.is_file():
        pytest.skip("make docs has not set up its environment")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build"))
    for file in (*ROOT.glob("*.md"), ROOT / "src/plumbline/version.py"):
        place = tmp_path / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    shutil.copytree(ROOT / "schema", tmp_path / "schema")
    shutil.copytree(ROOT / "src", tmp_path / "src", dirs_exist_ok=True)
    return tmp_path


def test_the_site_is_built_without_a_warning(copy: Path) -> None:
    done = build(copy, copy / "site")
    assert done.stderr == ""
    assert done.returncode == 0
    pages = {file.relative_to(copy / "site").as_posix() for file in copy.glob("site/**/*.html")}
    assert {"index.html", "tutorial.html", "errors.html", "reference/settings-models.html"} <= pages
    text = (copy / "site/index.html").read_text(encoding="utf-8")
    # Nothing is loaded from elsewhere: the site is read where there is no network.
    assert 'src="http' not in text
    assert 'rel="stylesheet" href="http' not in text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[gone](nowhere.md)", "nowhere.md"),
        ("[gone](guide.md#no-such-heading)", "no-such-heading"),
        ("![gone](nowhere.png)", "nowhere.png"),
    ],
)
def test_a_dead_link_stops_it(copy: Path, line: str, told: str) -> None:
    page = copy / "docs/glossary.md"
    page.write_text(page.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = build(copy, copy / "site")
    assert done.returncode != 0
    assert told in done.stderr
