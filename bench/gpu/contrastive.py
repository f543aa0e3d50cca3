"""Claim: contrastive training is faster than open_clip's, whose batches lie on the GPU.

ViT-B/32 at 224 pixels and a text tower of 12 layers of 512 (151 million parameters), 1,024 pairs a
step, bf16: our trainer with its loader beside open_clip's model and loss in a bare loop. Pairs a
second. `python -m bench.gpu.contrastive [case ...]`; the peer needs open_clip_torch.
"""

import sys
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from bench.gpu.measure import DEVICE, emit, loop, size, train
from plumbline.batch import Sample
from plumbline.kinds.alignment.captions import Captions
from plumbline.kinds.alignment.model import DualEncoder
from plumbline.kinds.alignment.settings import AlignmentTaskConfig, DualEncoderConfig
from plumbline.kinds.alignment.train import _bind
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.inputs import ImageInput, Input
from plumbline.loading.kept_features import KeptFeatures
from plumbline.loading.kept_input import KeptInput
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.layers import stacks

BATCH, SIDE, PATCH = size(1024, 4), size(224, 32), size(32, 16)
IMAGES, TEXTS, LONGEST = size(4096, 8), size(10**6, 100), size(77, 12)
VOCAB = size(49_408, 300)
SPECIAL = SpecialIds(pad=0, bos=1, eos=2)


class Pixels:
    """Random images where a cache has its own."""

    image_resize = None

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.images = draw.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)


class Pairs:
    """Images, each with a caption of its own of the longest kind."""

    def __init__(self, images: Input) -> None:
        self._images = images

    def __len__(self) -> int:
        return 100 * BATCH

    def sample(self, index: int, epoch: int) -> Sample:
        """As a training has it."""
        draw = np.random.default_rng(index)
        return {
            "index": index,
            "epoch": epoch,
            "medium_number": index,
            "medium": self._images.fetch(index % IMAGES),
            "text_number": index,
            "text": "",
            "ids": draw.integers(4, VOCAB, LONGEST - 2),
        }


def kept() -> KeptFeatures:
    """What a frozen image tower would have made, as it is kept for a training in bfloat16."""
    half = torch.randn(IMAGES, size(768, 32), dtype=torch.bfloat16)
    return KeptFeatures(half.view(torch.int16).numpy().view(np.uint16), np.arange(IMAGES))


def ours(case: str, *, frozen: bool = False, **settings: object) -> None:
    """Our trainer, with its loader; frozen: the image tower, whose features are kept."""
    torch.manual_seed(0)
    vit = {
        "name": "vit",
        "image_size": SIDE,
        "patch_size": PATCH,
        "width": size(768, 32),
        "layers": size(12, 1),
        "heads": size(12, 2),
        "mlp_width": size(3072, 32),
    }
    text = {
        "name": "transformer",
        "width": size(512, 32),
        "layers": size(12, 1),
        "heads": size(8, 2),
        "mlp_width": size(2048, 32),
        "max_tokens": LONGEST,
    }
    towers = {"image_encoder": vit, "text_encoder": text, "embed_dim": size(512, 16)}
    model = DualEncoder(DualEncoderConfig.model_validate(towers), VOCAB)
    inputs: Input = ImageInput(
        ImageInputConfig.model_validate({"modality": "image"}),
        cast(TrainingCache, Pixels()),
        image_size=SIDE,
    )
    if frozen:
        inputs = KeptInput(inputs, kept())
    config = AlignmentTaskConfig.model_validate(
        {"inputs": {"modality": "image"}, "max_text_tokens": LONGEST - 2}
    )
    captions = Captions(SPECIAL, config.max_text_tokens)
    task = _bind(inputs=inputs, config=config, captions=captions, seed=0, training=True)
    parts = ["image_encoder"] if frozen else []
    found = train(model, task, Pairs(inputs), batch=BATCH, frozen=parts, **settings)
    step = found["step_s"]
    assert isinstance(step, float)
    emit("contrastive", case=case, pairs_s=BATCH / step, **found)


def open_clip(case: str, *, compiled: bool) -> None:
    """The peer: its model and its loss."""
    import open_clip as peer

    torch._dynamo.reset()
    torch.manual_seed(0)
    net = peer.create_model("ViT-B-32", precision="fp32").to(DEVICE).train()
    loss = peer.ClipLoss()
    images = [torch.randn(BATCH, 3, 224, 224, device=DEVICE) for _ in range(2)]
    texts = [torch.randint(1, 49_000, (BATCH, 77), device=DEVICE) for _ in range(2)]
    if compiled:
        for layer in (layer for stack in stacks(net) for layer in stack):
            layer.compile()

    def step(number: int) -> Tensor:
        image, text, scale = net(images[number % 2], texts[number % 2])
        found: Tensor = loss(image, text, scale)
        return found

    found = loop(list(net.parameters()), step)
    seconds = found["step_s"]
    assert isinstance(seconds, float)
    emit("contrastive", case=case, pairs_s=BATCH / seconds, **found)


CASES = {
    "ours": ours,
    "open_clip_compiled": partial(open_clip, compiled=True),
    "open_clip_eager": partial(open_clip, compiled=False),
    "ours_frozen": partial(ours, frozen=True),
    "ours_fastest": partial(ours, deterministic=False, profile=True),
    "ours_eager": partial(ours, compile={"mode": "none"}),
}


def main(names: list[str]) -> None:
    """Measure some cases, or all."""
    for name in names or CASES:
        CASES[name](name)


if __name__ == "__main__":
    main(sys.argv[1:])
