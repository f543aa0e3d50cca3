"""Task `vlm`: answers and captions about an image.

The questions of an image share one sequence: image tokens once, then a segment per question,
`prompt <bos> answer <eos>`. A segment sees the image and itself, at positions that begin after the
image, so it gets what it would get in a sequence of its own, at about half the work.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.code_digest import digest_tree
from plumbline.data import images
from plumbline.errors import CheckpointError, DataError
from plumbline.files import STATE_DIR, digest_of
from plumbline.kinds.language.loss import chosen_loss
from plumbline.kinds.vlm import features as encoded_features
from plumbline.kinds.vlm.features import cached_features
from plumbline.kinds.vlm.model import Vlm, VlmSpec
from plumbline.kinds.vlm.rows import Ids, Rows, Segment
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.loading import transforms
from plumbline.loading.cache_reader import MediaRows, TrainingCache
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.inputs import left_to_resize
from plumbline.loading.random import keyed_generator, keyed_seed
from plumbline.losses.language import TokenLoss, token_cross_entropy
from plumbline.models import vision
from plumbline.models.encoder_config import ImageEncoderConfig
from plumbline.models.lm_head import at_places, chunked_loss
from plumbline.models.packed import takes_whole_rows
from plumbline.models.processor import settle
from plumbline.models.stored import load_encoder
from plumbline.models.vision import ImageEncoder
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import JobContext, Task, TrainingJob, perplexity_of

FEATURE_CODE = (vision, encoded_features, transforms, images)
"""The modules that decide what a frozen encoder's features are."""


class DialogueSource:
    """One sample per image of a split: its questions, and captions under the caption prompt."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        config: VlmTaskConfig,
        caption_prompt: Ids,
        features: NDArray[np.float32] | None,
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
            features: [images, tokens, token_width] of the frozen encoder, by image number; None
                when the encoder trains and must see pixels.
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

    def sample(self, index: int, epoch: int) -> Sample:
        """An image with this epoch's segments."""
        rows = self._rows[index]
        # One of the two: what a frozen encoder has made of the image, or the image itself.
        visual: dict[str, object] = {}
        if self._images is not None:
            visual["pixels"] = self._images[rows.number]
        if self._features is not None:
            visual["features"] = self._features[rows.number]
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
    assert isinstance(model, Vlm)
    features = batch.get("image_features")
    if features is None:
        features = model.image_encoder(batch["pixel_values"]).tokens
    # [batch, seq, width], of the text positions, or of all where images share a row
    hidden = model.hidden_states(
        features,
        batch["input_ids"],
        batch["position_ids"],
        batch["mask"],
        batch.get("image_places"),
    )
    labelled = batch["labelled"]  # never in the first place of a row: position i says token i + 1

    # logits [n, vocab] of a chunk, as the map gives them: some decoders cap or scale them.
    def part(logits: Tensor, chosen: Tensor) -> LossSum:
        return token_loss(model.behind_map(logits), chosen)

    head = model.decoder.get_output_embeddings()
    states = at_places(hidden, labelled - 1)
    return chunked_loss(head, states, at_places(batch["labels"], labelled), part)


def build(context: JobContext, model_config: VlmConfig, config: VlmTaskConfig) -> TrainingJob:
    """Build model, data and task from a cache and the aligned encoder that training starts from.

    Raises:
        CheckpointError: the start holds no aligned image encoder, or a file has changed.
        DataError: the dataset has no text, images of other channels than the encoder's, or a split
            neither questions nor captions.
    """
    cache, seed = context.cache, context.seed
    encoder, part, encoder_digest = load_encoder(context.start)
    if not (isinstance(encoder, ImageEncoder) and isinstance(part.config, ImageEncoderConfig)):
        raise CheckpointError(f"{context.start}: its encoder does not see images")
    _, inputs = settle(part.config, part.inputs, None, cache)
    assert isinstance(inputs, ImageInputConfig)
    sources = context.open_sources(model_config.sources(), read_ids={"decoder"})
    # Before anything is built: the projector's weights are the next draws.
    torch.manual_seed(keyed_seed(seed, "weights"))
    if cache.facts["special_ids"] is None:
        raise DataError(f"{cache.folder}: this dataset has no text")
    special_ids = SpecialIds(**cache.facts["special_ids"])
    spec = VlmSpec(
        image_encoder=part.config,
        model=model_config.without_sources(),
        vocab_size=cache.facts["vocab_size"],
        special_ids=special_ids,
        inputs=inputs,
        max_text_tokens=config.max_text_tokens,
        caption_prompt=config.caption_prompt,
    )
    normalize = inputs.normalize
    normalize.check_channels(cache.images.shape[-1])
    features = None
    if "image_encoder" in context.freeze:
        features = _frozen_features(encoder, spec, inputs, context, encoder_digest)
    tokenizer = context.tokenizer()
    assert tokenizer is not None, "a dataset with special ids has a tokenizer"
    prompt = np.array(tokenizer.encode(config.caption_prompt, add_special_tokens=False).ids)
    source = partial(DialogueSource, cache, config=config, caption_prompt=prompt, features=features)
    rows = Rows(
        max_text_tokens=config.max_text_tokens,
        normalize=normalize,
        special_ids=special_ids,
        image_size=spec.image_encoder.image_size,
        image_tokens=encoder.tokens,
        resize=left_to_resize(inputs, cache),
    )
    chosen = partial(loss, token_loss=chosen_loss(config))
    has_validation = context.has_validation
    model = Vlm(encoder, model_config, spec.vocab_size, special_ids.pad, sources.origins)
    model.whole_rows = takes_whole_rows(model.decoder, 1 << 31)
    return TrainingJob(
        model=model,
        task=_task(rows, Rows.packed if config.rows == "packed" else Rows.padded, chosen),
        train=source(split="train", seed=seed, training=True),
        validation=source(split="val", seed=seed, training=False) if has_validation else None,
        spec=spec,
        tokenizer=tokenizer,
        inputs={**sources.digests, "start": encoder_digest},
        validation_task=replace(_task(rows, Rows.padded, loss), loss_metrics=perplexity_of),
    )


def _task(
    rows: Rows, make: Callable[[Rows, Sequence[Sample]], Batch], loss: Callable[..., LossSum]
) -> Task:
    raw = replace(rows, raw=True)
    return Task("vlm", partial(make, rows), loss, collate_raw=partial(make, raw))


def _frozen_features(
    encoder: ImageEncoder,
    spec: VlmSpec,
    inputs: ImageInputConfig,
    context: JobContext,
    encoder_digest: str,
) -> NDArray[np.float32]:
    cache, normalize = context.cache, inputs.normalize
    resize = left_to_resize(inputs, cache)
    key = digest_of(
        {
            "encoder": encoder_digest,
            "images": cache.digests["images.bin"],
            "normalize": normalize.model_dump(),
            "resize": resize and resize.model_dump(),
            "config": spec.image_encoder.model_dump(mode="json"),
            "code": [digest_tree(Path(str(module.__file__))) for module in FEATURE_CODE],
            "libraries": [torch.__version__, torchvision.__version__],
            "device": context.device.type,
            "threads": torch.get_num_threads(),
        }
    )
    root = Path(os.environ.get("DVC_ROOT", "."))
    return cached_features(
        encoder,
        cache.images,
        normalize,
        spec.image_encoder.image_size,
        folder=root / STATE_DIR / "features" / key[:16],
        device=context.device,
        resize=resize,
    )
