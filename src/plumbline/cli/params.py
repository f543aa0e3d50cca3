"""Compose params.yaml from conf/, and check every setting: what DVC hashes and the stages read.

What may stand there goes into schema/ as JSON Schema, with the kinds and sources of the project's
plugins: an editor with a YAML language server completes and checks the files that name one of them.
"""

import argparse
from pathlib import Path

from plumbline.stages import check_params


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing."""


def run(options: argparse.Namespace) -> None:
    """Write params.yaml and the schemas."""
    from plumbline.schema.documents import write_schemas

    check_params.main(["--write"])
    if changed := write_schemas(Path.cwd()):
        print(f"{', '.join(changed)} written")
