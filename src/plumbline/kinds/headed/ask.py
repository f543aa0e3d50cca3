"""Ask a stored model with heads."""

from pathlib import Path
from typing import Any

import numpy as np

from plumbline import paths
from plumbline.asking import Answer, Options, read_bytes, read_image, say_cut_tokens
from plumbline.data.arrays import decode_features
from plumbline.data.undecodable import UndecodableError
from plumbline.errors import ConfigError, DataError


def headed_inputs(stored: Any, options: Options, folder: Path) -> tuple[dict[str, Any], Answer]:
    """The inputs of a classifier or regressor, as evaluation makes them of the cache.

    Returns:
        The inputs, and what the answer says of those that were cut.

    Raises:
        ConfigError: the file cannot be read, or the features' statistics are not here.
        DataError: it is not what the model takes.
    """
    import torch

    from plumbline.data.audio import decode_mono
    from plumbline.loading.audio_transforms import log_mel
    from plumbline.loading.inputs import collate_texts
    from plumbline.loading.transforms import normalize_images

    config, modality = stored.spec.inputs, stored.spec.inputs.modality
    if modality == "image":
        size = stored.spec.model.encoder.image_size
        pixels = read_image(options.image, size, config.normalize.channels)
        stacked = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        return {"pixel_values": normalize_images(stacked, config.normalize)}, {}
    if modality == "text":
        if stored.spec.model.encoder.takes_strings:
            return {"texts": [options.text]}, {}
        ids = stored.text.encode(options.text, add_special_tokens=False).ids
        batch = collate_texts([np.array(ids, np.int64)], stored.spec.special_ids, config.max_tokens)
        return batch, say_cut_tokens(len(ids) - config.max_tokens)
    path: Path = getattr(options, modality)
    try:
        if modality == "audio":
            samples = torch.from_numpy(decode_mono(read_bytes(path), config.sample_rate))
            steps, mask = log_mel(samples[None], torch.tensor([len(samples)]), config)
            return {"steps": steps, "mask": mask}, {}
        values = decode_features(read_bytes(path))
    except UndecodableError as error:
        raise DataError(f"{path}: no {modality} that can be decoded ({error})") from None
    if values.shape[1] != stored.spec.channels:
        raise DataError(f"{path}: {values.shape[1]} channels, expected {stored.spec.channels}")
    steps = torch.from_numpy(_standardize(values[: config.max_steps], config, folder))[None]
    cut = {"cut_steps": len(values) - steps.shape[1]} if len(values) > steps.shape[1] else {}
    return {"steps": steps, "mask": torch.ones(steps.shape[:2], dtype=torch.bool)}, cut


def _standardize(values: Any, config: Any, folder: Path) -> Any:
    """Bring the channels to the scale of training, whose figures stand in the cache."""
    from plumbline.files import read_json

    if not config.standardize:
        return np.array(values)
    place = paths.cache(str(read_json(folder / "config.json").get("data"))) / "cache.json"
    if not place.is_file():
        raise ConfigError(f"{place}: missing, it holds the statistics of the features; dvc repro")
    facts = read_json(place)["features"]
    mean = np.array(facts["mean_of_channels"], np.float32)
    std = np.maximum(np.array(facts["std_of_channels"], np.float32), 1e-6)
    return ((values - mean) * (1 / std)).astype(np.float32)


def outputs_of(
    stored: Any, options: Options, device: Any, folder: Path
) -> tuple[dict[str, Any], Answer]:
    """The outputs of every head, and what the answer says of an input that was cut."""
    import torch

    from plumbline.models.device import to_device

    inputs, cut = headed_inputs(stored, options, folder)
    with torch.inference_mode():
        outputs = stored.model(**to_device(inputs, device))
    return {part: values.float().cpu().numpy() for part, values in outputs.items()}, cut
