"""The stages of the DAG, one script each: `python -m stages.<name> [key] [override ...]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# In a checkout of plumbline a queued experiment runs in a copy of its own and must import its own
# code, whatever the environment has installed.
sys.path.insert(0, str(ROOT / "src"))

from plumbline.plugins import load_plugins  # noqa: E402

# Before a stage defines its settings: what plugins register are valid values there.
load_plugins(ROOT / "plugins")
