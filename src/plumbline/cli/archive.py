"""Write a task's bundle as an archive for TorchServe: `plumbline archive vqa --into store`.

For those who still run it: TorchServe is archived upstream. The folder gets `<name>.mar`, with a
handler that runs the bundle's own code, and config.properties with the limits of its server.json.
Needs torch-model-archiver.
"""

import argparse
from pathlib import Path

from plumbline.names import check_name
from plumbline.serving.bundles import find_bundle
from plumbline.serving.torchserve_archive import write_archive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a bundle, and where its archive is to lie."""
    parser.add_argument("task", help="a task of params.yaml, or the folder of a bundle")
    parser.add_argument("--into", type=Path, required=True, help="the folder of the archives")
    parser.add_argument("--name", help="of the model (default: that of the folder)")
    parser.add_argument("--format", help="of the graphs that answer (default: the bundle's)")


def run(options: argparse.Namespace) -> None:
    """Write, then say how it is served."""
    bundle = find_bundle(options.task)
    name = options.name or bundle.resolve().name
    check_name("--name", name)
    made = write_archive(bundle, options.into, name, options.format)
    print(f"{made.archive} and {made.config}; serve them there with")
    print("torchserve --foreground --ts-config config.properties --disable-token-auth")
