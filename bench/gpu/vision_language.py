"""Claim: a vision-language model trains as fast as its bare loop compiled layer by layer.

222 million parameters: a ViT-B/16 at 224 pixels before a decoder of 30 layers of 576; 196 image and
128 text tokens, one question an image, batches of 64, bf16; the encoder trained, or frozen with its
features kept. Samples a second. `python -m bench.gpu.vision_language [case ...]`.
"""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.gpu.measure import DEVICE, emit, loop, size, train
from plumbline.batch import Sample
from plumbline.kinds.vlm.model import Vlm
from plumbline.kinds.vlm.rows import Rows
from plumbline.kinds.vlm.settings import VlmConfig
from plumbline.kinds.vlm.train import loss as vlm_loss
from plumbline.loading.transform_config import Normalization
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.encoder_config import VitConfig
from plumbline.models.packed import takes_whole_rows
from plumbline.models.projector_config import MlpConfig
from plumbline.models.vision import VitEncoder
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.layers import stacks
from plumbline.training.task import Task

BATCH, SIDE, PATCH = size(64, 2), size(224, 32), 16
TOKENS, TEXT = (SIDE // PATCH) ** 2, size(128, 12)
VOCAB, IMAGES = size(49_152, 300), size(512, 8)
WIDTH, LAYERS, HEADS, MLP = size(768, 32), size(12, 1), size(12, 2), size(3072, 32)
SPECIAL = SpecialIds(pad=0, bos=1, eos=2)


class Questions:
    """Random images, each with a question and an answer of half the tokens."""

    def __init__(self, *, encoded: bool) -> None:
        """As pixels, or as what an encoder has made of them."""
        draw = np.random.default_rng(0)
        shape = (IMAGES, SIDE, SIDE, 3)
        self._images = draw.integers(0, 256, shape, dtype=np.uint8)
        self._features = None
        if encoded:
            made = draw.standard_normal((IMAGES, TOKENS, WIDTH), dtype=np.float32)
            # As they are kept for a training in bfloat16.
            half = torch.from_numpy(made).to(torch.bfloat16)
            self._features = half.view(torch.int16).numpy().view(np.uint16)

    def __len__(self) -> int:
        return 100 * BATCH

    def sample(self, index: int, epoch: int) -> Sample:
        """An image with one segment: question, bos, answer, eos."""
        ids = np.random.default_rng(index).integers(4, VOCAB, TEXT - 2)
        segment = (ids[: TEXT // 2], ids[TEXT // 2 :])
        at = index % IMAGES
        seen = {"pixels": self._images[at]}
        if self._features is not None:
            seen = {"features": self._features[at]}
        return {"index": index, "epoch": epoch, "segments": [segment], **seen}


def model() -> Vlm:
    """With random weights, as a training builds it."""
    torch.manual_seed(0)
    encoder = VitEncoder(
        VitConfig(
            name="vit",
            image_size=SIDE,
            patch_size=PATCH,
            width=WIDTH,
            layers=LAYERS,
            heads=HEADS,
            mlp_width=MLP,
            dropout=0.0,
        )
    )
    decoder = DecoderConfig(
        width=size(576, 32),
        layers=size(30, 2),
        heads=size(9, 2),
        kv_heads=size(3, 1),
        mlp_width=size(1536, 64),
        max_positions=TOKENS + TEXT,
    )
    made = Vlm(
        encoder,
        VlmConfig(projector=MlpConfig(name="mlp", width=size(1152, 32)), decoder=decoder),
        VOCAB,
        0,
    )
    made.whole_rows = takes_whole_rows(made.decoder, 1 << 31)
    return made


def ours(case: str, *, encoded: bool = False, **settings: object) -> None:
    """Our trainer, with its loader."""
    rows = Rows(
        max_text_tokens=TEXT,
        normalize=Normalization(preset="imagenet"),
        special_ids=SPECIAL,
        image_size=SIDE,
        image_tokens=TOKENS,
    )
    raw = replace(rows, raw=True)
    task = Task("vlm", rows.packed, vlm_loss, collate_raw=raw.packed)
    frozen = ["image_encoder"] if encoded else []
    found = train(model(), task, Questions(encoded=encoded), batch=BATCH, frozen=frozen, **settings)
    step = found["step_s"]
    assert isinstance(step, float)
    emit("vision_language", case=case, samples_s=BATCH / step, **found)


def bare(case: str, *, compiled: str) -> None:
    """A loop over batches on the GPU, of the same modules."""
    torch._dynamo.reset()
    net = model().to(DEVICE).train()
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=draw).to(DEVICE)
    ids = torch.randint(4, VOCAB, (BATCH, TEXT), generator=draw).to(DEVICE)
    length = TOKENS + TEXT
    mask = torch.ones(length, length, dtype=torch.bool, device=DEVICE).tril()[None, None]
    positions = torch.arange(length, device=DEVICE)[None]
    half = TEXT // 2

    def passes(pixels: Tensor, tokens: Tensor) -> Tensor:
        features = net.projector(net.image_encoder(pixels).tokens)
        text = net.decoder.get_input_embeddings()(tokens)
        hidden = net.decoder.model(
            inputs_embeds=torch.cat([features.to(text.dtype), text], dim=1),
            attention_mask=mask.expand(BATCH, 1, -1, -1),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        logits = net.decoder.lm_head(hidden[:, TOKENS + half : -1])
        return functional.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, half + 1 :].flatten()
        )

    if compiled == "layers":
        for layer in (layer for stack in stacks(net) for layer in stack):
            layer.compile()
    run = torch.compile(passes) if compiled == "whole" else passes
    used: list[nn.Parameter] = list(net.parameters())
    found = loop(used, lambda step: run(images, ids))
    step = found["step_s"]
    assert isinstance(step, float)
    emit("vision_language", case=case, samples_s=BATCH / step, **found)


CASES = {
    "ours": ours,
    "bare_layers": partial(bare, compiled="layers"),
    "ours_frozen": partial(ours, encoded=True),
    "ours_fastest": partial(ours, deterministic=False, profile=True),
    "bare_whole": partial(bare, compiled="whole"),
    "ours_layers": partial(ours, compile={"unit": "layers"}),
    "bare_eager": partial(bare, compiled="no"),
}


def main(names: list[str]) -> None:
    """Measure some cases, or all."""
    for name in names or CASES:
        CASES[name](name)


if __name__ == "__main__":
    main(sys.argv[1:])
