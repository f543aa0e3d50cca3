"""Measure a stored model of any kind on a dataset's cache, wherever it was trained.

plumbline evaluate models/tasks/vqa --data scenes split=val
"""

import argparse
import json
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbline import paths
from plumbline.errors import ConfigError
from plumbline.evaluate import evaluate
from plumbline.names import check_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the model, the data and settings."""
    parser.add_argument("model", type=Path, help="a folder that a training stage wrote")
    parser.add_argument("--data", required=True, help="a dataset, or the folder of a cache")
    parser.add_argument("settings", nargs="*", help="of the section evaluate, such as split=val")


def run(options: argparse.Namespace) -> None:
    """Print the figures as JSON."""
    cache = Path(options.data)
    if not cache.is_dir():
        check_name("--data", options.data)
        cache = paths.cache(options.data)
    try:
        settings = OmegaConf.to_container(OmegaConf.from_dotlist(options.settings))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{options.settings}: {' '.join(str(error).split())}") from None
    assert isinstance(settings, dict)
    figures = evaluate(options.model, cache, {str(name): v for name, v in settings.items()})
    print(json.dumps(figures, indent=2, sort_keys=True))
