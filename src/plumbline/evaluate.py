"""Measure a stored model of any kind on a dataset's cache, wherever it was trained.

`python -m plumbline.evaluate models/tasks/vqa --data scenes split=val`
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbline import paths
from plumbline.config import check_config
from plumbline.errors import ConfigError, PlumblineError
from plumbline.kind import known_kinds
from plumbline.names import check_name
from plumbline.plugins import load_plugins
from plumbline.text import one_line


def evaluate(folder: Path, cache: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """The figures of the model in `folder` on the training cache in `cache`.

    Args:
        folder: as a training stage writes one.
        cache: as `tokenize_text` writes one, made with the tokenizer of the model.
        settings: what differs from the defaults of the kind's section `evaluate`.

    Raises:
        CheckpointError: the folder holds no model, or a file has changed.
        ConfigError: a setting is wrong, or the cache has another tokenizer than the model.
    """
    from plumbline.evaluation.result import Evaluation, EvaluationJob, settle
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.models.device import resolve_device
    from plumbline.models.stored import load_model
    from plumbline.tokenization.tokenizer import FILE_NAME

    stored, data = load_model(folder), TrainingCache(cache)
    device = resolve_device("auto")
    if stored.tokenizer is not None and stored.digests[FILE_NAME] != data.digests.get(FILE_NAME):
        raise ConfigError(
            f"{cache}: its tokenizer is not that of {folder}; set tokenize.tokenizer.pretrained of "
            "the dataset to that folder, and make the cache again"
        )
    params = {"evaluate": dict(settings)}
    sections = {name: f"evaluate.{name}" for name in settings}
    kind = known_kinds()[stored.spec.kind]
    config = check_config(kind.settings.evaluate, sections, params)
    result: Evaluation = kind.role("evaluate").evaluate(EvaluationJob(stored, data, config, device))
    return settle(result)[0]


def main(arguments: Sequence[str]) -> None:
    """Print the figures as JSON."""
    load_plugins(Path.cwd() / "plugins")
    parser = argparse.ArgumentParser(prog="python -m plumbline.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, help="a folder that a training stage wrote")
    parser.add_argument("--data", required=True, help="a dataset, or the folder of a cache")
    parser.add_argument("settings", nargs="*", help="of the section evaluate, such as split=val")
    options = parser.parse_intermixed_args(arguments)
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


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PlumblineError as error:
        sys.exit(f"error: {one_line(str(error))}")
