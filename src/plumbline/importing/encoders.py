"""The encoders that are proposed for each medium, and how samples reach them."""

import math

from plumbline.importing.sizes import Sizes
from plumbline.importing.tables import Settings
from plumbline.shapes.proposals import PATCH

MAX_STEPS = 4096
"""Of feature sequences; longer ones are cut."""


def image_encoder(sizes: Sizes, norm: str) -> tuple[Settings, int]:
    """Residual blocks with this norm, and the last width."""
    widths = (32, 64, 128) if sizes.small and not sizes.machine.gpus else (64, 128, 256)
    encoder: Settings = {
        "name": "resnet",
        "image_size": sizes.side,
        "channels": 3,
        "stem_channels": 32,
        "stem_stride": 1 if sizes.side <= 48 else 2,
        "stages": [{"channels": width, "blocks": 1, "stride": 2} for width in widths],
        "norm": norm,
    }
    return encoder, widths[-1]


def steps_encoder(sizes: Sizes, max_steps: int) -> Settings:
    """Convolutions over time, of a spectrogram or of features."""
    width = 64 if sizes.small else 128
    strides = (2, 2, 1)
    return {
        "name": "sequence",
        "convs": [{"channels": width, "kernel": 5, "stride": stride} for stride in strides],
        "width": width,
        "layers": 0,
        "heads": 4,
        "mlp_width": 2 * width,
        "dropout": 0.1,
        "max_steps": max_steps,
        "pooling": "mean",
        "flatten": False,
    }


def text_encoder(sizes: Sizes, tokens: int, dropout: float = 0.2) -> Settings:
    """A transformer for texts of so many tokens."""
    return {
        "name": "transformer",
        "pretrained": None,
        "width": 64 if sizes.small else 128,
        "layers": 1 if sizes.small else 2,
        "heads": 4,
        "mlp_width": 256 if sizes.small else 512,
        "max_tokens": tokens + 2,
        "dropout": dropout,
        "pooling": "mean",
    }


def image_inputs(sizes: Sizes, *, augment: bool) -> Settings:
    """Images from -1 to 1, moved a little if asked."""
    crop = {"enlarge": 0, "padding": sizes.side // 16 if augment else 0, "flip": 0.0}
    return {
        "modality": "image",
        "normalize": {"preset": "half", "mean": None, "std": None},
        "resize": None,
        "augment": {**crop, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0},
    }


def audio_inputs() -> Settings:
    """Spectrograms as they are."""
    masks = {"time_masks": 0, "time_width": 0, "time_share": 1.0, "mel_masks": 0, "mel_width": 0}
    return {
        "modality": "audio",
        "sample_rate": 16000,
        "n_mels": 64,
        "window_ms": 25.0,
        "hop_ms": 10.0,
        "fft": 400,
        "edges": "reflect",
        "normalize": "clip",
        "scale": "log",
        "augment": {"shift_ms": 0.0, "gain_db": 0.0, **masks},
    }


def audio_steps(sizes: Sizes) -> int:
    """Frames of the longest clip, with room for one that is half as long again."""
    return 256 * math.ceil(150 * max(sizes.clip_seconds, 1.0) / 256)


def image_tokens(sizes: Sizes) -> int:
    """Tokens of an image in a decoder behind `vit`."""
    return (sizes.side // PATCH) ** 2


def vit(sizes: Sizes) -> Settings:
    """Convolutions down to one token per 16 x 16 pixels, then a transformer."""
    strides = [32, 64, 128, 128]
    return {
        "name": "vit",
        "image_size": sizes.side,
        "channels": 3,
        "patch_size": PATCH,
        "width": 128,
        "layers": 2 if sizes.small else 4,
        "heads": 4,
        "mlp_width": 384,
        "dropout": 0.0,
        "conv_stem": [{"channels": width, "stride": 2, "kernel": 3} for width in strides],
        "feature_layers": [0, -1],
    }
