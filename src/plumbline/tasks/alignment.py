"""Task `alignment`: images and their captions meet in one space."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.errors import ConfigError, DataError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import pad_rows
from plumbline.loading.random import keyed_generator, keyed_seed
from plumbline.loading.transforms import (
    augment_images,
    normalize_images,
    resize_images,
    stack_images,
)
from plumbline.losses.contrastive import info_nce, matryoshka, sigmoid_pairs
from plumbline.models.config import DualEncoderConfig
from plumbline.models.dual_encoder import DualEncoder
from plumbline.models.stored import DualEncoderSpec, source_digests
from plumbline.tasks.base import Task, TrainingJob
from plumbline.tasks.config import AlignmentModelConfig, AlignmentTaskConfig
from plumbline.tokenization.framing import frame_ids
from plumbline.tokenization.tokenizer import SpecialIds, load_tokenizer


class PairSource:
    """One sample per captioned image of a split; training draws one of its captions per epoch."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        config: AlignmentTaskConfig,
        *,
        seed: int,
        training: bool,
    ) -> None:
        """Find the captioned images.

        Raises:
            DataError: there is none in this split.
        """
        self._cache, self._config, self._seed, self._training = cache, config, seed, training
        self._images = cache.images
        self._rows = [rows for rows in cache.by_image(split) if len(rows.captions)]
        if not self._rows:
            raise DataError(f"{cache.folder}: no image with a caption in split {split!r}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def sample(self, index: int, epoch: int) -> Sample:
        """An image and one of its captions: drawn anew each epoch, or the first to evaluate."""
        rows = self._rows[index]
        chosen, dropped = 0, False
        if self._training:
            random = keyed_generator(self._seed, "caption", epoch, index)
            chosen = int(random.integers(len(rows.captions)))
            dropped = random.random() < self._config.text_dropout
        number = int(rows.captions[chosen])
        return {
            "index": index,
            "epoch": epoch,
            "image": rows.image,
            "pixels": self._images[rows.image],
            # The empty text has no number of its own: all dropped captions are one text.
            "text_number": -1 if dropped else number,
            "ids": self._cache.ids(number)[:0] if dropped else self._cache.ids(number),
        }


def collate(
    samples: Sequence[Sample],
    *,
    config: AlignmentTaskConfig,
    special_ids: SpecialIds,
    image_size: int,
    seed: int,
    training: bool,
) -> Batch:
    """Stack pairs; each distinct caption of the batch is given once.

    Returns:
        pixel_values [batch, 3, size, size] float32; input_ids, attention_mask [texts, seq];
        text_index [batch]: the row of each image's caption; positives [batch, batch] bool;
        widths [n]: the embedding widths of this batch, empty for the full one;
        sample_index [batch].
    """
    images = stack_images([s["pixels"] for s in samples], [s["index"] for s in samples])
    if training:
        augment = config.images.augment
        draws = [keyed_generator(seed, "augment", s["epoch"], s["index"]) for s in samples]
        images = augment_images(images, augment, image_size, draws)
    else:
        images = resize_images(images, image_size)
    image_numbers = np.array([s["image"] for s in samples])
    text_numbers = np.array([s["text_number"] for s in samples])
    _, first, text_index = np.unique(text_numbers, return_index=True, return_inverse=True)
    framed = [
        frame_ids(samples[i]["ids"], special_ids.bos, special_ids.eos, config.max_text_tokens)
        for i in first
    ]
    input_ids = pad_rows(framed, special_ids.pad)
    lengths = np.array([len(ids) for ids in framed])
    same_text = text_numbers[:, None] == text_numbers[None, :]
    # A dropped caption fits its own image alone: all others would be called the same.
    same_text &= (text_numbers >= 0)[:, None] | np.eye(len(samples), dtype=bool)
    positives = same_text | (image_numbers[:, None] == image_numbers[None, :])
    return {
        "pixel_values": normalize_images(images, config.images.normalize),
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(np.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        "text_index": torch.from_numpy(text_index),
        "positives": torch.from_numpy(positives),
        "widths": torch.tensor(_widths(config, samples[0], seed, training), dtype=torch.long),
        "sample_index": torch.tensor([s["index"] for s in samples]),
    }


def _widths(config: AlignmentTaskConfig, first: Sample, seed: int, training: bool) -> list[int]:
    if not (config.sample_width and training):
        return config.widths
    random = keyed_generator(seed, "width", first["epoch"], first["index"])
    return [config.widths[int(random.integers(len(config.widths)))]]


def loss(model: nn.Module, batch: Batch, *, config: AlignmentTaskConfig) -> LossSum:
    """The contrastive loss of a batch, counted per image."""
    out = model(batch["pixel_values"], batch["input_ids"], batch["attention_mask"])
    texts: Tensor = out.texts[batch["text_index"]]
    if config.loss == "info_nce":
        pair_loss = partial(info_nce, logit_scale=out.logit_scale)
    else:
        pair_loss = partial(sigmoid_pairs, logit_scale=out.logit_scale, logit_bias=out.logit_bias)
    widths = batch["widths"].tolist() or [out.images.shape[1]]
    return matryoshka(out.images, texts, batch["positives"], widths, pair_loss)


def bind_task(
    config: AlignmentTaskConfig,
    special_ids: SpecialIds,
    image_size: int,
    *,
    seed: int,
    training: bool,
) -> Task:
    """The task with its settings bound; `training` turns augmentation and drawn widths on."""
    return Task(
        name="alignment",
        collate=partial(
            collate,
            config=config,
            special_ids=special_ids,
            image_size=image_size,
            seed=seed,
            training=training,
        ),
        loss=partial(loss, config=config),
    )


def build_alignment(
    cache: TrainingCache,
    model_config: AlignmentModelConfig,
    config: AlignmentTaskConfig,
    *,
    seed: int,
) -> TrainingJob:
    """Build model, data and task from a cache.

    Raises:
        ConfigError: a width is larger than embed_dim, or texts longer than the text encoder takes.
        DataError: a split has no captioned image.
    """
    if config.widths and max(config.widths) > model_config.embed_dim:
        raise ConfigError(
            f"task.widths: {max(config.widths)} is larger than model.embed_dim = "
            f"{model_config.embed_dim}"
        )
    text = model_config.text_encoder
    if not text.pretrained and config.max_text_tokens + 2 > text.max_tokens:
        raise ConfigError(
            f"task.max_text_tokens = {config.max_text_tokens}: with bos and eos that is more than "
            f"model.text_encoder.max_tokens = {text.max_tokens}"
        )
    torch.manual_seed(keyed_seed(seed, "weights"))
    special_ids = SpecialIds(**cache.facts["special_ids"])
    vocab_size = cache.facts["vocab_size"]
    size = model_config.image_encoder.image_size
    source = partial(PairSource, cache, config=config, seed=seed)
    config_of_model = DualEncoderConfig(**model_config.model_dump(exclude={"freeze"}))
    spec = DualEncoderSpec(
        model=config_of_model.without_sources(),
        vocab_size=vocab_size,
        special_ids=special_ids,
        normalize=config.images.normalize,
        max_text_tokens=config.max_text_tokens,
        widths=config.widths,
    )
    return TrainingJob(
        model=DualEncoder(config_of_model, vocab_size),
        task=bind_task(config, special_ids, size, seed=seed, training=True),
        train=source(split="train", training=True),
        validation=source(split="val", training=False) if "val" in cache.splits else None,
        spec=spec,
        tokenizer=load_tokenizer(cache.folder),
        inputs={
            **{f"cache/{name}": digest for name, digest in cache.digests.items()},
            **source_digests(config_of_model.sources()),
        },
        validation_task=bind_task(config, special_ids, size, seed=seed, training=False),
    )
