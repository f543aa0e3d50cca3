"""How Sphinx makes a site of these pages: `make docs`, offline and without a warning."""

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
VERSION = (ROOT / "src/plumbline/version.py").read_text(encoding="utf-8")

project = "plumbline"
author = "the authors of plumbline"
project_copyright = "the authors of plumbline, Apache-2.0"
release = version = re.findall(r'__version__ = "(.*)"', VERSION)[0]

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "examples"]
myst_heading_anchors = 4  # links to headings, as GitHub makes them, are checked
nitpicky = True
highlight_language = "text"

_PAGES = {
    "README": "index",
    "CHANGELOG": "changelog",
    "CONTRIBUTING": "contributing",
    "SECURITY": "security",
}
"""Files at the root of the repository that have a page here; as files their links lead there."""


def _lead_to_pages(app: object, name: str, source: list[str]) -> None:
    """Let links to files above this folder lead to the pages that hold them."""
    source[0] = re.sub(
        rf"\]\(((?:\.\./)*)\.\./({'|'.join(_PAGES)})\.md",
        lambda link: f"]({link[1]}{_PAGES[link[2]]}.md",
        source[0],
    )


def setup(app: Sphinx) -> None:
    """Change pages as they are read."""
    app.connect("source-read", _lead_to_pages)


smartquotes = False  # options begin with two hyphens

html_theme = "furo"
html_title = f"plumbline {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5f6b", "color-brand-content": "#0b5f6b"},
    "dark_css_variables": {"color-brand-primary": "#6fc3cf", "color-brand-content": "#6fc3cf"},
}
