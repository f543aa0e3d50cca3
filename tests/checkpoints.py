"""Checkpoints of others, recorded as the stage does it, for what starts from them."""

import json
from pathlib import Path

from plumbline import paths
from plumbline.params import installed_versions
from plumbline.stages import resolve_weights

SET = "theirs"


def record_checkpoint(path: Path, name: str = "theirs", **entry: str) -> Path:
    """Make a checkpoint an entry of `weights` in the project of the working folder.

    Returns:
        The folder of its record, which a training or a tokenizer depends on.
    """
    params = Path("params.yaml")
    settings = json.loads(params.read_text(encoding="utf-8")) if params.is_file() else {}
    settings["versions"] = installed_versions()
    settings.setdefault("weights", {})[name] = {"set": SET, "path": str(path), **entry}
    params.write_text(json.dumps(settings), encoding="utf-8")  # which YAML holds too
    resolve_weights.main([name])
    return Path.cwd() / paths.weights(SET)
