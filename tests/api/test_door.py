"""What `import plumbline` gives, and what it costs."""

import subprocess
import sys

import pytest

import plumbline
from plumbline.api.fit import fit
from plumbline.api.load import load

LOADED = """
import sys
before = set(sys.modules)
import plumbline
print(*sorted(set(sys.modules) - before - {"plumbline", "typing"}))
"""


def test_the_package_itself_imports_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "numpy", "pydantic", "hydra", "importlib.metadata", "PIL"}
    loaded = set(done.stdout.split())
    assert not loaded & heavy
    assert not [name for name in loaded if name.startswith("plumbline.")]


def test_the_door_leads_to_the_functions() -> None:
    assert plumbline.fit is fit
    assert plumbline.load is load
    assert {"fit", "load"} <= set(dir(plumbline))
    with pytest.raises(AttributeError, match="module 'plumbline' has no attribute 'fitt'"):
        plumbline.fitt  # noqa: B018
