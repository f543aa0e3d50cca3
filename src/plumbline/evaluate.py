"""Measure a stored model of any kind on a dataset's cache, wherever it was trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbline.config import check_config
from plumbline.errors import ConfigError
from plumbline.kind import known_kinds


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
    from plumbline.evaluation.measure import measure
    from plumbline.evaluation.result import EvaluationJob
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
    return measure(kind, EvaluationJob(stored, data, config, device))[0]
