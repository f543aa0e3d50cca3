"""Look at a training before it runs: `python -m plumbline.inspect vqa parameters`."""

import json
from collections.abc import Sequence
from pathlib import Path

from plumbline.config import fix_threads
from plumbline.inspection.commands import COMMANDS, parse
from plumbline.plugins import load_plugins
from plumbline.registry import load_attribute
from plumbline.stage import run_stage
from plumbline.text import shown


def main(arguments: Sequence[str]) -> None:
    """Print what was asked for."""
    what, options = parse(list(arguments), str(__doc__))
    load_plugins(Path.cwd() / "plugins")
    from plumbline.inspection.target import open_target, read_call

    call = read_call(options.name, options.overrides)
    fix_threads(call.config.threads)
    report = load_attribute(COMMANDS[what].place)(open_target(call), options)
    print(json.dumps(report.data) if options.json else shown(report.text))


if __name__ == "__main__":
    run_stage(main)
