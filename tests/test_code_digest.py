"""Which files a stage runs is found without importing them; a digest says what a module means."""

from pathlib import Path

import pytest

from plumbline.code_digest import CodeTree, digest_tree
from plumbline.files import sha256_file

MODULE = '''"""What it is."""

import os  # for paths

LIMIT = 3
"""Of what."""


class Thing:
    """A thing."""

    size: int = 0
    """In pixels."""

    def area(self) -> int:
        """Its area."""
        # Squares only.
        return self.size ** 2
'''


def write(root: Path, files: dict[str, str]) -> CodeTree:
    """A project whose core lies in it; packages get their `__init__.py`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        for folder in path.relative_to(root).parents:
            if folder.name and folder.name != "src" and path.suffix == ".py":
                (root / folder / "__init__.py").touch()
    return CodeTree(root, root / "src/plumbline")


UNRUN = {
    "# Squares only.": "# Only squares.",
    '"""In pixels."""': '"""In centimetres."""',
    '    """A thing."""\n': "",
    "import os  # for paths\n": "import os\n\n\n",
    "self.size ** 2": "(self.size\n                ** 2)",
}
RUN = [
    ("LIMIT = 3", "LIMIT = 4"),
    ("LIMIT = 3", "LIMIT = 3.0"),
    ("LIMIT = 3", "LIMIT = None"),
    ("** 2", "* 2"),
    ("import os", "import os.path"),
    ("size: int = 0", "size: int"),
    ('LIMIT = 3\n"""Of what."""', 'LIMIT = """Of what."""'),
]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [*((*pair, False) for pair in UNRUN.items()), *((*pair, True) for pair in RUN)],
)
def test_a_digest_changes_with_what_is_run_and_with_nothing_else(
    tmp_path: Path, old: str, new: str, changes: bool
) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    assert old in MODULE
    one.write_text(MODULE, encoding="utf-8")
    two.write_text(MODULE.replace(old, new), encoding="utf-8")
    assert (digest_tree(one) != digest_tree(two)) == changes
    assert sha256_file(one) != sha256_file(two)


FILES = {
    "stages/train.py": "from plumbline.job import run\n",
    "plugins/own.py": "import plumbline.helper\n",
    "src/plumbline/job.py": (
        "from typing import TYPE_CHECKING\n"
        "import numpy\n"
        "from plumbline.registry import load_attribute\n"
        "if TYPE_CHECKING:\n"
        "    from plumbline.types import Job\n"
        "def run():\n"
        "    from plumbline.inside import late\n"
        "    import PIL\n"
        "    return load_attribute('plumbline.kinds.one:build')\n"
        "COPIED = ('plumbline/data/images.py',)\n"
    ),
    "src/plumbline/registry.py": "def load_attribute(place): ...\n",
    "src/plumbline/types.py": "",
    "src/plumbline/inside.py": "from plumbline.tracking.record import record\nlate = 1\n",
    "src/plumbline/helper.py": "",
    "src/plumbline/tracking/record.py": "record = 1\n",
    "src/plumbline/kinds/one.py": (
        "from pathlib import Path\n"
        "from . import shared\n"
        "TEMPLATES = Path(__file__).parent / 'pages'\n"
    ),
    "src/plumbline/kinds/two.py": "import torch\n",
    "src/plumbline/kinds/shared.py": "import onnx\n",
    "src/plumbline/kinds/pages/page.html": "<p>",
    "src/plumbline/data/images.py": "import soundfile\n",
    "src/plumbline/unused.py": "",
}


def test_the_closure_is_what_can_be_run_and_nothing_else(tmp_path: Path) -> None:
    tree = write(tmp_path, FILES)
    found = tree.closure(["stages.train"])
    ours = {name for name in found.files if not name.endswith("__init__.py")}
    assert ours == {
        "stages/train.py",
        "plumbline/job.py",
        "plumbline/registry.py",
        "plumbline/inside.py",
        "plumbline/kinds/one.py",
        "plumbline/kinds/shared.py",
        "plumbline/kinds/pages/page.html",
        "plumbline/data/images.py",
    }
    assert found.verbatim == {"plumbline/kinds/pages/page.html", "plumbline/data/images.py"}
    assert found.libraries >= {"numpy", "pillow", "onnx", "onnx_ir", "protobuf"}
    assert "soundfile" in found.libraries  # of what is copied: the copy runs it
    assert "torch" not in found.libraries
    roles = tree.closure(["stages.train", "plumbline.kinds.two"])  # as a stage adds those of a kind
    assert set(roles.files) - set(found.files) == {"plumbline/kinds/two.py"}
    assert "torch" in roles.libraries
    assert tree.plugins() == ["plugins.own"]


def test_a_plugin_is_part_of_what_reads_a_table_that_it_fills(tmp_path: Path) -> None:
    files = {
        "src/plumbline/registry.py": "class Registry: ...\n",
        "src/plumbline/metrics.py": (
            "from plumbline.registry import Registry\nMETRICS: Registry[int] = Registry('metric')\n"
        ),
        "src/plumbline/sources.py": (
            "from plumbline.registry import Registry\nSOURCES = Registry('source')\n"
        ),
        "src/plumbline/config.py": "",
        "stages/read.py": "import plumbline.config\nfrom plumbline.sources import SOURCES\n",
        "stages/measure.py": "def main():\n    from plumbline.metrics import METRICS\n",
        "stages/plain.py": "import plumbline.config\n",
        "plugins/score.py": (
            "import plumbline.config\nfrom plumbline.metrics import METRICS\n"
            "METRICS.register('s', 'plugins._score:score')\n"
        ),
        "plugins/_score.py": "",
        # Fills by a module of its own, and brings a table that another one fills.
        "plugins/rows.py": "from plugins._rows import fill\nimport plumbline.metrics\n",
        "plugins/_rows.py": "from plumbline.sources import SOURCES\n",
    }
    tree = write(tmp_path, files)

    def plugins_of(stage: str) -> set[str]:
        found = tree.closure_with_plugins([f"stages.{stage}"]).files
        return {name for name in found if name.startswith("plugins/") and "__init__" not in name}

    assert plugins_of("plain") == set()
    assert plugins_of("measure") == {"plugins/score.py", "plugins/rows.py", "plugins/_rows.py"}
    assert plugins_of("read") == plugins_of("measure")
    (tmp_path / "plugins/rows.py").write_text("from plugins._rows import fill\n", encoding="utf-8")
    tree = write(tmp_path, files | {"plugins/rows.py": "from plugins._rows import fill\n"})
    assert plugins_of("measure") == {"plugins/score.py"}
    assert plugins_of("read") == {"plugins/rows.py", "plugins/_rows.py"}


def test_a_place_counts_where_what_loads_it_looks(tmp_path: Path) -> None:
    """Who checks a name alone runs nothing of what it stands for."""
    losses = (
        "from plumbline.registry import Registry\nLOSSES = Registry('loss')\n"
        "LOSSES['one'] = 'plumbline.of_one:loss'\n"
    )
    files = {
        "src/plumbline/registry.py": "class Registry: ...\ndef load_attribute(place): ...\n",
        "src/plumbline/losses.py": losses,
        "src/plumbline/formats.py": losses.replace("LOSSES", "FORMATS").replace("one", "two"),
        "src/plumbline/of_one.py": "",
        "src/plumbline/of_two.py": "",
        "src/plumbline/settings.py": "from plumbline.losses import LOSSES\n",
        "src/plumbline/write.py": (
            "from plumbline.formats import FORMATS\nfrom plumbline.registry import load_attribute\n"
        ),
        "src/plumbline/train.py": (
            "import plumbline.settings\nfrom plumbline.losses import LOSSES\n"
            "def build():\n    from plumbline.registry import load_attribute\n"
        ),
        "plugins/mine.py": (
            "from plumbline.losses import LOSSES\nLOSSES['mine'] = 'plugins._mine:loss'\n"
        ),
        "plugins/_mine.py": "",
    }
    tree = write(tmp_path, files)

    def run(*modules: str) -> set[str]:
        names = tree.closure_with_plugins([f"plumbline.{module}" for module in modules]).files
        return {name for name in names if "of_" in name or name.startswith("plugins/_m")}

    assert run("settings") == set()
    assert run("settings", "write") == {"plumbline/of_two.py"}
    assert run("train") == {"plumbline/of_one.py", "plugins/_mine.py"}


def test_an_import_alone_runs_no_function(tmp_path: Path) -> None:
    found = write(tmp_path, FILES).closure(["stages.train"], eager=True)
    assert "plumbline/job.py" in found.files
    assert not {"plumbline/inside.py", "plumbline/kinds/one.py"} & set(found.files)


def test_a_file_that_changed_or_went_is_named(tmp_path: Path) -> None:
    tree = write(tmp_path, FILES)
    digests = tree.closure(["stages.train"]).digests()
    assert tree.changed(digests) == []
    job, images = tmp_path / "src/plumbline/job.py", tmp_path / "src/plumbline/data/images.py"
    job.write_text(FILES["src/plumbline/job.py"] + "# A comment.\n", encoding="utf-8")
    assert tree.changed(digests) == []
    images.write_text("# A comment in what is copied.\n", encoding="utf-8")
    job.write_text(FILES["src/plumbline/job.py"] + "MORE = 1\n", encoding="utf-8")
    (tmp_path / "src/plumbline/kinds/shared.py").unlink()
    names = ["plumbline/data/images.py", "plumbline/job.py", "plumbline/kinds/shared.py"]
    assert tree.changed(digests) == names
