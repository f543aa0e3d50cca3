"""The stages of the DAG, one script each: `python -m stages.<name> [key] [override ...]`.

Settings are read and checked before anything heavy is imported, so that a wrong one is told at
once; hence the imports inside `main`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A queued experiment runs in a checkout of its own and must import its own code, whatever the
# environment has installed.
sys.path.insert(0, str(ROOT / "src"))

from plumbline.plugins import load_plugins  # noqa: E402

# Before a stage defines its settings: what plugins register are valid values there.
load_plugins(ROOT / "plugins")
