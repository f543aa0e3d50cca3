"""Claim: batches of images cost a fraction of what transforms of one image after the other cost.

Ours are the loader's, from a cache; the peer decodes, transforms and collates item by item with PIL
and torchvision, as their tutorials do. Both give float32 normalised batches, which are compared,
with the same crops, mirrors and factors where there are any; uint8 as for a GPU stands beside.
Prints one JSON line a claim, in CPU seconds of one thread: medians of five rounds in turn.
`python -m bench.loader`.
"""

import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional

from plumbline.files import write_digests
from plumbline.kinds.classification.rows import LabelledRows
from plumbline.kinds.classification.train import collate
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.inputs import build_input
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator
from plumbline.loading.transform_config import AugmentConfig
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.settings import TokenizeConfig

ROUNDS, SEED = 5, 0
COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
CLAIMS: list[dict[str, Any]] = [
    {"side": 32, "stored": 32, "augment": {}, "at_least": 60},
    {"side": 224, "stored": 224, "augment": {}, "at_least": 10},
    {"side": 32, "stored": 32, "augment": {"padding": 4, "flip": 0.5}},
    {"side": 224, "stored": 256, "augment": {"enlarge": 32, "flip": 0.5}},
    {"side": 224, "stored": 256, "augment": {"enlarge": 32, "flip": 0.5, **COLOURS}, "at_least": 2},
]
SIZES = {32: (4096, 256), 224: (192, 64)}
"""Side -> images of an epoch, and of a batch."""


def encode(random: np.random.Generator, side: int) -> bytes:
    """A smooth image with some grain, as data sets of its size have them."""
    small = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    pixels = (smooth + random.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    form: dict[str, Any] = {"format": "PNG"} if side < 64 else {"format": "JPEG", "quality": 90}
    Image.fromarray(pixels).save(buffer, **form)
    return buffer.getvalue()


def make_cache(folder: Path, files: list[bytes]) -> TrainingCache:
    """The training cache of images, each with one of ten labels."""
    clean, out = folder / "clean", folder / "cache"
    clean.mkdir()
    out.mkdir()
    names = [str(at) for at in range(len(files))]
    rows = {"sample_id": names, "image": files, "label": [name[-1] for name in names]}
    pq.write_table(pa.table(rows), clean / "train.parquet")
    build_cache(clean, out, TokenizeConfig(), detect_shapes(clean, ShapesConfig()))
    write_digests(out)
    return TrainingCache(out)


def our_loader(cache: TrainingCache, config: ImageInputConfig, side: int, *, raw: bool) -> Loader:
    """As a classification trains; `raw` as for a GPU."""
    inputs = build_input(config, cache, image_size=side)
    rows = LabelledRows(cache, "train", inputs, "image", [""])
    bound = partial(collate, inputs=inputs, parts=[""], seed=SEED, training=True, raw=raw)
    batch = LoaderConfig(batch_size=SIZES[side][1])
    return Loader(rows, bound, batch, seed=SEED, shuffle=False)


class Items(Dataset[tuple[Tensor, int]]):
    """What is usual: decode an image, transform it with PIL and torchvision, give it alone."""

    def __init__(self, files: list[bytes], config: ImageInputConfig, side: int) -> None:
        """Hold the files."""
        self.files, self.config, self.side = files, config, side

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Pixel values [3, side, side] and a label."""
        image, augment, side = (
            Image.open(io.BytesIO(self.files[index])),
            self.config.augment,
            self.side,
        )
        image = image.convert("RGB")
        if augment != AugmentConfig():
            image = self._augmented(
                image, augment, side, keyed_generator(SEED, "augment", 0, index)
            )
        mean, std = self.config.normalize.statistics
        return functional.normalize(functional.to_tensor(image), mean, std), index % 10

    @staticmethod
    def _augmented(
        image: Any, augment: AugmentConfig, side: int, random: np.random.Generator
    ) -> Any:
        if augment.padding:
            image = functional.pad(image, augment.padding)
        reach = augment.enlarge + 2 * augment.padding
        top, left = random.integers(0, reach + 1, size=2)
        image = functional.crop(image, int(top), int(left), side, side)
        if random.random() < augment.flip:
            image = functional.hflip(image)
        for name, adjust in (
            ("brightness", functional.adjust_brightness),
            ("contrast", functional.adjust_contrast),
            ("saturation", functional.adjust_saturation),
        ):
            if amount := getattr(augment, name):
                image = adjust(image, random.uniform(1 - amount, 1 + amount))
        return image


def their_batches(items: Items) -> Iterator[Tensor]:
    """Pixel values of an epoch, [batch, 3, side, side] each."""
    for pixels, _ in DataLoader(items, batch_size=SIZES[items.side][1]):
        yield pixels


def our_batches(loader: Loader) -> Iterator[Any]:
    """Pixel values of an epoch, or what becomes them on a GPU."""
    for batch in loader.batches(0):
        yield batch["inputs"]["pixel_values"]


def cpu_seconds(batches: Callable[[], Iterator[Any]]) -> float:
    """Of one epoch."""
    start = time.process_time()
    for _ in batches():
        pass
    return time.process_time() - start


def compare(claim: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make both, see that they give the same, and time them in turn."""
    side, random = claim["side"], np.random.default_rng(SEED)
    files = [encode(random, claim["stored"]) for _ in range(SIZES[side][0])]
    cache = make_cache(folder, files)
    config = ImageInputConfig(modality="image", augment=AugmentConfig(**claim["augment"]))
    loader = our_loader(cache, config, side, raw=False)
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "items": partial(their_batches, Items(files, config, side)),
        "loader": partial(our_batches, loader),
        "loader_uint8": partial(our_batches, our_loader(cache, config, side, raw=True)),
    }
    apart = [(a - b).abs() for a, b in zip(ways["items"](), ways["loader"](), strict=True)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(cpu_seconds(way))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "images_per_cpu_second": {n: round(len(files) / m) for n, m in medians.items()},
        "ratio": round(medians["items"] / medians["loader"], 2),
        "ratio_uint8": round(medians["items"] / medians["loader_uint8"], 2),
        "mean_difference": float(torch.cat(apart).mean()),
        "largest_difference": float(torch.cat(apart).max()),
    }


def main() -> None:
    """Compare each claim."""
    torch.set_num_threads(1)
    machine = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
    }
    for claim in CLAIMS:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(claim | compare(claim, Path(folder)) | machine), flush=True)


if __name__ == "__main__":
    main()
