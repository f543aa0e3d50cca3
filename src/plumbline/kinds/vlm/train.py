"""Task `vlm`: answers and captions about an image, or conversations that show images.

The questions of an image share one sequence: image tokens once, then a segment per question,
`prompt <bos> answer <eos>`. A segment sees the image and itself, at positions that begin after the
image, so it gets what it would get in a sequence of its own, at about half the work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.errors import DataError
from plumbline.kinds.language.chat import read_chat
from plumbline.kinds.language.loss import chosen_loss
from plumbline.kinds.vlm.features import image_feed
from plumbline.kinds.vlm.model import Vlm, VlmSpec
from plumbline.kinds.vlm.rows import Ids, Rows, Segment
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.kinds.vlm.start import Seen, first_encoder
from plumbline.kinds.vlm.talk_rows import TalkRows, TalkSource
from plumbline.loading.cache_reader import MediaRows, TrainingCache
from plumbline.loading.inputs import left_to_resize
from plumbline.loading.kept_features import KeptFeatures, widen
from plumbline.loading.loader import SampleSource
from plumbline.loading.order import SampleShards
from plumbline.loading.random import keyed_generator, keyed_seed
from plumbline.losses.language import TokenLoss, token_cross_entropy
from plumbline.models.lm_head import at_places, chunked_loss
from plumbline.models.packed import takes_whole_rows
from plumbline.models.vision import ImageEncoder
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.frozen_features import Tower, keep_features, tokens
from plumbline.training.task import JobContext, Task, TrainingJob, perplexity_of


class DialogueSource:
    """One sample per image of a split: its questions, and captions under the caption prompt."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        config: VlmTaskConfig,
        caption_prompt: Ids,
        features: KeptFeatures | None,
        *,
        seed: int,
        training: bool,
    ) -> None:
        """Find the images that have something to say.

        Args:
            cache: texts and images.
            split: name of the split.
            config: how many captions and questions an epoch draws.
            caption_prompt: ids of `config.caption_prompt`.
            features: [tokens, token_width] of the frozen encoder, by image number; None when images
                are encoded at each step.
            seed: of the draws.
            training: draw anew each epoch; else take all questions and the first caption.

        Raises:
            DataError: the split has neither questions nor captions.
        """
        self._cache, self._config, self._features = cache, config, features
        self._images = cache.images if features is None else None
        self._caption_prompt, self._seed, self._training = caption_prompt, seed, training
        captions, questions = config.captions_per_image != 0, config.questions_per_image != 0
        self._rows = [
            row
            for row in cache.by_medium(split, "image")
            if (captions and len(row.captions)) or (questions and len(row.questions))
        ]
        if not self._rows:
            raise DataError(f"{cache.folder}: no question and no caption in split {split!r}")
        say_cut_texts(cache, split, self._rows, config.max_text_tokens)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def shards(self) -> SampleShards | None:
        """See `ShardedSource`."""
        if self._images is None:
            return None
        return self._cache.shards("image", np.array([row.number for row in self._rows]))

    def sample(self, index: int, epoch: int) -> Sample:
        """An image with this epoch's segments."""
        rows = self._rows[index]
        # One of the two: what a frozen encoder has made of the image, or the image itself.
        visual: dict[str, object] = {}
        if self._images is not None:
            visual["pixels"] = self._images[rows.number]
        if self._features is not None:
            visual["features"] = self._features.take(rows.number)
        return {"index": index, "segments": self._segments(rows, index, epoch), **visual}

    def _segments(self, rows: MediaRows, index: int, epoch: int) -> list[Segment]:
        captions, questions = rows.captions[:1], rows.questions
        if self._training:
            random = keyed_generator(self._seed, "dialogue", epoch, index)
            captions = random.permutation(rows.captions)[: self._config.captions_per_image]
            questions = random.permutation(rows.questions)[: self._config.questions_per_image]
        else:
            captions = captions[: self._config.captions_per_image]
            questions = questions[:0] if self._config.questions_per_image == 0 else questions
        said: list[Segment] = [(self._caption_prompt, self._cache.ids(int(c))) for c in captions]
        return said + [(self._cache.ids(int(q)), self._cache.ids(int(a))) for q, a in questions]


def say_cut_texts(cache: TrainingCache, split: str, rows: Sequence[MediaRows], limit: int) -> None:
    """Log how many captions, questions and answers are cut."""
    lengths = cache.text_lengths()
    pairs = np.concatenate([row.questions for row in rows])
    captions = np.concatenate([row.captions for row in rows])
    texts = {"captions": captions, "questions": pairs[:, 0], "answers": pairs[:, 1]}
    for what, numbers in texts.items():
        cache.say_cut(split, lengths[numbers], limit, what, "task.max_text_tokens")


def loss(model: nn.Module, batch: Batch, *, token_loss: TokenLoss = token_cross_entropy) -> LossSum:
    """Next-token loss over answers and their eos; logits are computed nowhere else.

    Equal to the loss over the whole row, whose other labels are all ignored.
    """
    # [batch, seq, width], of the text positions, or of all where images share a row
    hidden = _hidden_states(model, batch)
    labelled = batch["labelled"]  # never in the first place of a row: position i says token i + 1
    states = at_places(hidden, labelled - 1)
    return _sum_loss(model, states, at_places(batch["labels"], labelled), token_loss)


def talk_loss(
    model: nn.Module, batch: Batch, *, token_loss: TokenLoss = token_cross_entropy
) -> LossSum:
    """Loss over the assistant's answers and what ends them; labels are shifted already."""
    hidden, labelled = _hidden_states(model, batch), batch["labelled"]
    labels = at_places(batch["labels"], labelled)
    return _sum_loss(model, at_places(hidden, labelled), labels, token_loss)


def _hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """Of text positions [batch, seq, width], or of all of rows in which images stand."""
    assert isinstance(model, Vlm)
    features = batch.get("image_features")
    if features is None:
        features = _encode(model.image_encoder, batch["pixel_values"])
    return model.hidden_states(
        widen(features),
        batch["input_ids"],
        batch["position_ids"],
        batch["mask"],
        batch.get("image_places"),
    )


def _encode(encoder: ImageEncoder, pixels: Tensor) -> Tensor:
    """Tokens [images, tokens, token_width] of pixels [images, channels, size, size]."""
    if not len(pixels):  # conversations without an image, which not every encoder takes
        return pixels.new_zeros(0, encoder.tokens, encoder.token_width)
    tokens: Tensor = encoder(pixels).tokens
    return tokens


def _sum_loss(model: nn.Module, states: Tensor, labels: Tensor, token_loss: TokenLoss) -> LossSum:
    """Loss of labels [n] under the hidden states [n, width] that say them."""
    assert isinstance(model, Vlm)

    # logits [n, vocab] of a chunk, as the map gives them: some decoders cap or scale them.
    def part(logits: Tensor, chosen: Tensor) -> LossSum:
        return token_loss(model.behind_map(logits), chosen)

    head = model.decoder.get_output_embeddings()
    return chunked_loss(head, states, labels, part)


def build(context: JobContext, model_config: VlmConfig, config: VlmTaskConfig) -> TrainingJob:
    """Build model, data and task from a cache and the image encoder that training starts from.

    Raises:
        CheckpointError: the start holds no aligned image encoder, or a file has changed.
        ConfigError: the checkpoints of parts do not go together, or with the settings.
        DataError: the dataset has no text, images of other channels than the encoder's, or a split
            neither questions nor captions, or no conversations.
    """
    cache, seed = context.cache, context.seed
    sources = context.open_sources(model_config.sources(), read_ids={"decoder"})
    if whole := sources.checkpoints.get("projector"):
        settled = model_config.projector.settle(whole.path)
        model_config = model_config.model_copy(update={"projector": settled})
    seen = first_encoder(context, model_config, config, sources)
    encoder = seen.encoder
    # Before anything else is built: the projector's weights are the next draws.
    torch.manual_seed(keyed_seed(seed, "weights"))
    spec = _make_spec(cache, seen, model_config, config)
    spec.normalization.check_channels(cache.images.shape[-1])
    features = keep_features(
        context,
        Tower("image_encoder", encoder, seen.config, tokens),
        lambda: image_feed(cache, spec.images, spec.image_encoder.image_size),
    )
    tokenizer = context.tokenizer()
    assert tokenizer is not None, "a dataset with special ids has a tokenizer"
    read = _read_turns if spec.chat else _read_questions
    image_tokens = model_config.projector.count(encoder.tokens)
    data = read(context, spec, config, image_tokens, features, tokenizer)
    model = Vlm(encoder, model_config, spec.vocab_size, spec.special_ids.pad, sources.origins)
    model.whole_rows = takes_whole_rows(model.decoder, 1 << 31)
    chosen = partial(data.loss, token_loss=chosen_loss(config))
    return TrainingJob(
        model=model,
        task=_task(data.rows, chosen, packed=config.rows == "packed"),
        train=data.train,
        validation=data.validation,
        spec=spec,
        tokenizer=tokenizer,
        inputs={**sources.digests, **seen.read},
        validation_task=replace(
            _task(data.rows, data.loss, packed=False), loss_metrics=perplexity_of
        ),
    )


def _task(rows: Rows | TalkRows, loss: Callable[..., LossSum], *, packed: bool) -> Task:
    finished, raw = (
        each.packed if packed else each.padded for each in (rows, replace(rows, raw=True))
    )
    return Task("vlm", finished, loss, collate_raw=raw)


def _make_spec(cache: TrainingCache, seen: Seen, model: VlmConfig, task: VlmTaskConfig) -> VlmSpec:
    """What is stored of the model.

    Raises:
        DataError: the dataset has no text, or no conversations where they are read.
    """
    if cache.facts["special_ids"] is None:
        raise DataError(f"{cache.folder}: this dataset has no text")
    special_ids, chat = SpecialIds(**cache.facts["special_ids"]), None
    if task.text == "turns":
        chat, special_ids = read_chat(cache, special_ids)
    return VlmSpec(
        image_encoder=seen.config,
        model=model.without_sources(),
        vocab_size=cache.facts["vocab_size"],
        special_ids=special_ids,
        inputs=seen.inputs,
        max_text_tokens=task.max_text_tokens,
        caption_prompt=task.caption_prompt,
        captions=task.captions_per_image > 0,
        chat=chat,
        block_size=task.block_size if chat else None,
    )


@dataclass(frozen=True)
class _Data:
    """Samples, and how they become rows and a loss."""

    train: SampleSource
    validation: SampleSource | None
    rows: Rows | TalkRows
    loss: Callable[..., LossSum]


def _read_questions(
    context: JobContext,
    spec: VlmSpec,
    config: VlmTaskConfig,
    image_tokens: int,
    features: KeptFeatures | None,
    tokenizer: Tokenizer,
) -> _Data:
    prompt = np.array(tokenizer.encode(config.caption_prompt, add_special_tokens=False).ids)
    source = partial(
        DialogueSource,
        context.cache,
        config=config,
        caption_prompt=prompt,
        features=features,
        seed=context.seed,
    )
    rows = Rows(
        max_text_tokens=config.max_text_tokens,
        normalize=spec.normalization,
        special_ids=spec.special_ids,
        image_size=spec.image_encoder.image_size,
        image_tokens=image_tokens,
        resize=left_to_resize(spec.images, context.cache),
    )
    return _Data(
        train=source(split="train", training=True),
        validation=source(split="val", training=False) if context.has_validation else None,
        rows=rows,
        loss=loss,
    )


def _read_turns(
    context: JobContext,
    spec: VlmSpec,
    config: VlmTaskConfig,
    image_tokens: int,
    features: KeptFeatures | None,
    tokenizer: Tokenizer,
) -> _Data:
    def source(split: str) -> TalkSource:
        return TalkSource(context.cache, split, config.block_size, image_tokens, features)

    rows = TalkRows(
        spec.normalization,
        spec.special_ids.pad,
        spec.image_encoder.image_size,
        left_to_resize(spec.images, context.cache),
    )
    validation = source("val") if context.has_validation else None
    return _Data(source("train"), validation, rows, talk_loss)
