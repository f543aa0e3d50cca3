"""Log a task's bundle as a model of MLflow, and register it: `plumbline register vqa`.

It goes into the store of the runs (`MLFLOW_TRACKING_URI`, else mlflow.db of the project), with a
signature, an example and the digests of what the bundle was made of. The model is the bundle with
its own code, so `mlflow models serve` needs neither torch nor plumbline where it runs.
"""

import argparse
from pathlib import Path

from plumbline.names import check_name
from plumbline.serving.bundles import find_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a bundle and the name that it is to have."""
    parser.add_argument("task", help="a task of params.yaml, or the folder of a bundle")
    parser.add_argument("--name", help="of the registered model (default: that of the folder)")
    parser.add_argument("--format", help="of the graphs that answer (default: the bundle's)")


def run(options: argparse.Namespace) -> None:
    """Register, then say how it is served."""
    bundle = find_bundle(options.task)
    from plumbline.serving.mlflow_registry import register_bundle

    name = options.name or bundle.resolve().name
    check_name("--name", name)
    made = register_bundle(bundle, Path.cwd(), name, options.format)
    print(f"{made.name}, version {made.version}, in {made.store}; serve it with")
    print(f"MLFLOW_TRACKING_URI={made.store} mlflow models serve -m {made.uri} --env-manager local")
