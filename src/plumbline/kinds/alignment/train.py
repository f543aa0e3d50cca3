"""Task `alignment`: images or clips and their captions meet in one space."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plumbline.batch import Batch, Column, Columns, LossSum, Sample, column, sample_numbers
from plumbline.errors import DataError
from plumbline.kinds.alignment.captions import DROPPED, Captions, ids_of, text_of
from plumbline.kinds.alignment.model import DualEncoder, DualEncoderSpec
from plumbline.kinds.alignment.settings import (
    PAIR_LOSSES,
    AlignmentTaskConfig,
    DualEncoderConfig,
)
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.feed import feed_of
from plumbline.loading.input_config import InputConfig
from plumbline.loading.inputs import Input, build_input
from plumbline.loading.kept_input import KeptInput
from plumbline.loading.order import SampleShards
from plumbline.loading.random import keyed_generator, keyed_seed
from plumbline.losses.contrastive import PairLoss, matryoshka, shared_positives
from plumbline.models.encoders import check_longest
from plumbline.models.processor import settle
from plumbline.registry import load_attribute
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.frozen_features import Tower, keep_features
from plumbline.training.task import Embedded, JobContext, Sources, Task, TrainingJob, WindowLoss


class PairSource:
    """One sample per captioned medium of a split; training draws one of its captions per epoch."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        inputs: Input,
        config: AlignmentTaskConfig,
        *,
        seed: int,
        training: bool,
    ) -> None:
        """Find the captioned images or clips.

        Raises:
            DataError: there is none in this split.
        """
        self._cache, self._inputs, self._config = cache, inputs, config
        self._seed, self._training = seed, training
        rows = cache.by_medium(split, config.inputs.source)
        rows = [row for row in rows if len(row.captions)]
        if not rows:
            raise DataError(
                f"{cache.folder}: no {config.inputs.modality} with a caption in split {split!r}"
            )
        self._of_media = [row.captions for row in rows]
        self._captions: Captions | None = None
        self.media = np.array([row.number for row in rows], np.int64)
        """[samples] numbers of the media."""
        captions = np.concatenate(self._of_media)
        # A dropped one is one text more; which one is drawn is a look into the same table.
        dropped = [DROPPED] if training and config.text_dropout else []
        self.captions: NDArray[np.int64] = np.concatenate([captions, np.array(dropped, np.int64)])
        """Numbers of all captions that may be drawn."""
        inputs.say_cut(split, self.media)
        lengths = cache.text_lengths()[captions]
        limit = config.max_text_tokens
        cache.say_cut(split, lengths, limit, "captions", "task.max_text_tokens")

    def __len__(self) -> int:
        """Number of media."""
        return len(self.media)

    def length(self, index: int) -> int:
        """Steps of a sample's medium."""
        return self._inputs.length(int(self.media[index]))

    def shards(self) -> SampleShards | None:
        """See `ShardedSource`: of the media."""
        return self._inputs.shards(self.media)

    def fed_by(self, inputs: Input, captions: Captions) -> "PairSource":
        """The same samples, as another input and these captions give them."""
        other = copy.copy(self)  # rows are found once, and shared
        other._inputs, other._captions = inputs, captions
        return other

    def sample(self, index: int, epoch: int) -> Sample:
        """A medium and one of its captions: drawn anew each epoch, or the first to evaluate."""
        number, text = int(self.media[index]), self._draw(index, epoch)
        return {
            "index": index,
            "epoch": epoch,
            "medium_number": number,
            "medium": self._inputs.fetch(number),
            "text_number": text,
            "text": text_of(self._cache, text),
            "ids": ids_of(self._cache, text),
        }

    def samples(self, indices: NDArray[np.int64], epoch: int) -> Columns:
        """What a batch needs of several [samples]."""
        numbers = self.media[indices]
        texts = [self._draw(index, epoch) for index in indices.tolist()]
        columns: dict[str, Column] = {
            "index": indices,
            "epoch": np.full(len(indices), epoch),
            "medium_number": numbers,
            "medium": self._inputs.fetch_all(numbers),
            "text_number": np.array(texts, np.int64),
        }
        assert self._captions is not None, "whoever reads batches has said what reads captions"
        return Columns(columns | self._captions.read(self._cache, texts))

    def _draw(self, index: int, epoch: int) -> int:
        """Number of a sample's caption, or `DROPPED`."""
        captions, chosen = self._of_media[index], 0
        share = self._config.text_dropout
        # In validation the first caption, so that epochs compare. Where there is nothing to draw,
        # no generator is made: of a batch of a thousand pairs they take 12 ms.
        if self._training and (share or len(captions) > 1):
            random = keyed_generator(self._seed, "caption", epoch, index)
            chosen = int(random.integers(len(captions)))
            if random.random() < share:
                return DROPPED
        return int(captions[chosen])


def collate(
    samples: Sequence[Sample],
    *,
    inputs: Input,
    config: AlignmentTaskConfig,
    captions: Captions,
    seed: int,
    training: bool,
    raw: bool = False,
) -> Batch:
    """Stack pairs; each distinct caption of the batch is given once.

    Args:
        samples: of `PairSource`.
        inputs: stacks the media.
        config: widths.
        captions: stack the captions.
        seed: of the augmentation and of the drawn width.
        training: whether to augment and draw.
        raw: whether the media are left to the device to finish, where they can be.

    Returns:
        media: what `inputs` collates; texts: what `captions` do, of each distinct one;
        text_index [batch]: the row of each medium's caption; medium_number, text_number [batch]:
        equal where medium or caption is the same, -1 for a dropped caption; widths: a list of the
        embedding widths of this batch, empty for the full one; sample_index [batch].
    """
    draws = inputs.draws(samples, seed) if training else None
    text_numbers = np.asarray(column(samples, "text_number"), np.int64)
    # The row of each medium's caption among the distinct ones, each of which is encoded once.
    _, first, text_index = np.unique(text_numbers, return_index=True, return_inverse=True)
    names = sample_numbers(samples)
    stack = inputs.collate_raw if raw else inputs.collate
    return {
        "media": stack(column(samples, "medium"), names.tolist(), draws),
        "texts": captions.collate(samples, first.tolist()),
        "text_index": torch.from_numpy(text_index),
        "medium_number": torch.tensor(column(samples, "medium_number")),
        "text_number": torch.from_numpy(text_numbers),
        "widths": _widths(config, samples[0], seed, training),
        "sample_index": torch.from_numpy(names),
    }


def _widths(config: AlignmentTaskConfig, first: Sample, seed: int, training: bool) -> list[int]:
    if not (config.sample_width and training):
        return config.widths
    # Keyed by the first sample, since a batch has no number of its own.
    random = keyed_generator(seed, "width", first["epoch"], first["index"])
    return [config.widths[int(random.integers(len(config.widths)))]]


def embed(model: nn.Module, batch: Batch) -> Embedded:
    """Embed a micro-batch, with what its part in the loss of a window needs."""
    out = model(batch["media"], batch["texts"])
    return {
        "media": out.media,
        "texts": out.texts[batch["text_index"]],  # [batch, embed_dim]: again one a medium
        "logit_scale": out.logit_scale,
        "logit_bias": out.logit_bias,
        **{name: batch[name] for name in ("medium_number", "text_number")},
        "widths": torch.tensor(batch["widths"], dtype=torch.long, device=out.media.device),
    }


def window_loss(model: nn.Module, window: Sequence[Embedded], *, pair_loss: PairLoss) -> LossSum:
    """The contrastive loss of all pairs of a window, counted per pair.

    What is one for the whole window, such as a drawn width, comes from its first micro-batch: so
    it is the same however the window is cut.
    """
    # [window, embed_dim] each; without prefix widths the full one alone
    widths = window[0]["widths"].tolist()
    return _loss_of(window, widths, pair_loss)


def _loss_of(window: Sequence[Embedded], widths: list[int], pair_loss: PairLoss) -> LossSum:
    # Of the whole step: each pair is told from all others, however the step is cut.
    media, texts, media_numbers, text_numbers = (
        torch.cat([part[name] for part in window])
        for name in ("media", "texts", "medium_number", "text_number")
    )
    scale, bias = window[0]["logit_scale"], window[0]["logit_bias"]
    of_width = partial(pair_loss, logit_scale=scale, logit_bias=bias)
    positives = shared_positives(media_numbers, text_numbers)
    return matryoshka(media, texts, positives, widths or [media.shape[1]], of_width)


def loss(model: nn.Module, batch: Batch, *, pair_loss: PairLoss) -> LossSum:
    """The contrastive loss of a batch, counted per pair."""
    # The widths as the host knows them: it would wait for those of the device.
    return _loss_of([embed(model, batch)], batch["widths"], pair_loss)


def build(
    context: JobContext, model_config: DualEncoderConfig, config: AlignmentTaskConfig
) -> TrainingJob:
    """Build model, data and task from a cache.

    Raises:
        ConfigError: captions may be longer than the text encoder's checkpoint takes.
        DataError: the dataset has no text, or a split no captioned image or clip.
    """
    cache, seed = context.cache, context.seed
    if cache.facts["special_ids"] is None:
        raise DataError(f"{cache.folder}: this dataset has no text")
    special_ids = SpecialIds(**cache.facts["special_ids"])
    sources = context.open_sources(model_config.sources(), read_ids={"text_encoder"})
    model_config, input_config = _settled(model_config, config.inputs, sources, cache)
    image_size = model_config.image_encoder.image_size if model_config.image_encoder else None
    inputs = build_input(
        input_config, cache, image_size=image_size, cache_bytes=context.cache_bytes
    )
    # Right before the model: its weights are the next draws.
    torch.manual_seed(keyed_seed(seed, "weights"))
    spec = DualEncoderSpec(
        model=model_config.without_sources(),
        inputs=input_config,
        # Inputs of images have none: their encoder's settings say how many it takes.
        channels=getattr(inputs, "channels", None),
        vocab_size=cache.facts["vocab_size"],
        special_ids=special_ids,
        max_text_tokens=config.max_text_tokens,
        widths=config.widths,
    )
    model = DualEncoder(model_config, spec.vocab_size, spec.channels, sources.origins)
    check_longest(model.text_encoder, config.max_text_tokens + 2, "task.max_text_tokens")
    plain = Captions(
        None if model_config.text_encoder.takes_strings else special_ids,
        config.max_text_tokens,
        strings=model.text_encoder.reader(),
    )
    source = partial(PairSource, cache, inputs=inputs, config=config, seed=seed)
    train = source(split="train", training=True)
    validation = source(split="val", training=False) if context.has_validation else None
    inputs, captions = _keep(context, model, spec, inputs, plain, [train, validation])
    task = partial(_bind, inputs=inputs, config=config, captions=captions, seed=seed)
    return TrainingJob(
        model=model,
        task=task(training=True),
        train=train.fed_by(inputs, captions),
        validation=validation and validation.fed_by(inputs, captions),
        spec=spec,
        tokenizer=context.tokenizer(),
        inputs=sources.digests,
        validation_task=task(training=False),
    )


def _keep(
    context: JobContext,
    model: DualEncoder,
    spec: DualEncoderSpec,
    inputs: Input,
    captions: Captions,
    sources: Sequence[PairSource | None],
) -> tuple[Input, Captions]:
    """Inputs and captions, or what frozen encoders have made of them."""
    read = [source for source in sources if source is not None]
    name, config = spec.model.media
    numbers = np.concatenate([source.media for source in read])
    size = spec.model.image_encoder.image_size if spec.model.image_encoder else None
    media = keep_features(
        context,
        Tower(name, model.media_encoder, config),
        lambda: feed_of(inputs, spec.inputs, numbers, context.cache, size),
        varying=spec.inputs.varying(),
    )
    said = np.concatenate([source.captions for source in read])
    texts = keep_features(
        context,
        Tower("text_encoder", model.text_encoder, spec.model.text_encoder),
        lambda: captions.feed(context.cache, said),
    )
    return (
        inputs if media is None else KeptInput(inputs, media),
        captions if texts is None else replace(captions, kept=texts),
    )


def _settled(
    model: DualEncoderConfig, inputs: InputConfig, sources: Sources, cache: TrainingCache
) -> tuple[DualEncoderConfig, InputConfig]:
    """Put in what settings leave to the checkpoint of the media's encoder, or to the cache."""
    name, media = model.media
    settled, inputs = settle(media, inputs, sources.checkpoints.get(name), cache)
    return model.model_copy(update={name: settled}), inputs


def _bind(
    *,
    inputs: Input,
    config: AlignmentTaskConfig,
    captions: Captions,
    seed: int,
    training: bool,
) -> Task:
    bound = partial(
        collate,
        inputs=inputs,
        config=config,
        captions=captions,
        seed=seed,
        training=training,
    )
    pair_loss: PairLoss = load_attribute(PAIR_LOSSES[config.loss])
    window = WindowLoss(embed=embed, loss=partial(window_loss, pair_loss=pair_loss))
    return Task(
        "alignment",
        bound,
        partial(loss, pair_loss=pair_loss),
        window=window,
        collate_raw=partial(bound, raw=True),
    )
