"""Alignment: what a batch holds, what counts as a pair, and what is drawn for whom."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from plumbline.batch import Batch, Sample
from plumbline.errors import DataError
from plumbline.kinds.alignment.captions import Captions
from plumbline.kinds.alignment.model import DualEncoder, Embeddings, unit
from plumbline.kinds.alignment.settings import AlignmentTaskConfig, DualEncoderConfig
from plumbline.kinds.alignment.train import PairSource, _bind, build
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.inputs import ImageInput
from plumbline.loading.transform_config import AugmentConfig
from plumbline.losses.contrastive import info_nce, shared_positives, sigmoid_pairs
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import JobContext, Task, TrainingJob, no_metrics
from plumbline.training.window import Gradients
from tests.tiny import TEXT, VIT
from tests.training.together import ALONE

SPECIAL = SpecialIds(pad=0, bos=1, eos=2)
IMAGES = ImageInputConfig(modality="image")


@pytest.fixture(scope="module")
def cache(scenes_cache: Path) -> TrainingCache:
    return TrainingCache(scenes_cache)


def config_of(**settings: Any) -> AlignmentTaskConfig:
    return AlignmentTaskConfig(**({"inputs": IMAGES} | settings))


def make(cache: TrainingCache, seed: int = 0, **task: Any) -> TrainingJob:
    sides = {"image_encoder": VIT, "text_encoder": TEXT | {"max_tokens": 64}, "embed_dim": 8}
    model = DualEncoderConfig.model_validate(sides)
    return build(JobContext(cache=cache, seed=seed), model, config_of(**task))


class Opened:
    """A cache of no images: these samples bring theirs."""

    images = np.empty((0, 16, 16, 3), np.uint8)
    image_resize = None


def task(training: bool = True, seed: int = 0, size: int = 16, **settings: Any) -> Task:
    config = config_of(**settings)
    assert isinstance(config.inputs, ImageInputConfig)
    inputs = ImageInput(config.inputs, Opened(), image_size=size)  # type: ignore[arg-type]
    captions = Captions(SPECIAL, config.max_text_tokens)
    return _bind(inputs=inputs, config=config, captions=captions, seed=seed, training=training)


def pair(index: int, image: int, text: int, epoch: int = 0) -> Sample:
    """A hand-made sample; text -1 stands for a dropped caption."""
    pixels = np.random.default_rng(image).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    ids = np.arange(3, 3 + max(text, 0) + 1, dtype=np.int32)[: 0 if text < 0 else None]
    return {
        "index": index,
        "epoch": epoch,
        "medium_number": image,
        "medium": pixels,
        "text_number": text,
        "text": "",
        "ids": ids,
    }


def hand_made(epoch: int = 0) -> list[Sample]:
    """Six pairs: two share a caption, two share an image, two captions are dropped."""
    pairs = [(10, 4), (11, 7), (12, 4), (10, 5), (13, -1), (14, -1)]
    return [pair(index, *numbers, epoch) for index, numbers in enumerate(pairs)]


def test_each_distinct_caption_of_a_batch_is_encoded_once() -> None:
    batch = task().collate(hand_made())
    assert batch["texts"]["input_ids"].shape[0] == 4  # captions 4, 5, 7 and the empty one
    rows, masks = (
        batch["texts"][name][batch["text_index"]] for name in ("input_ids", "attention_mask")
    )
    for row, mask, sample in zip(rows, masks, hand_made(), strict=True):
        assert row[mask.bool()].tolist() == [1, *sample["ids"].tolist(), 2]
        assert not row[~mask.bool()].any()


def positives_of(batch: Batch) -> Tensor:
    return shared_positives(batch["medium_number"], batch["text_number"])


def test_positives_are_equal_captions_and_equal_images_but_dropped_ones_only_themselves() -> None:
    samples = hand_made()
    positives = positives_of(task().collate(samples))
    for i, one in enumerate(samples):
        for j, other in enumerate(samples):
            same_text = one["text_number"] == other["text_number"] >= 0
            fits = i == j or same_text or one["medium_number"] == other["medium_number"]
            assert bool(positives[i, j]) == fits, (i, j)


def test_a_long_caption_is_cut_within_its_frame() -> None:
    batch = task(max_text_tokens=2).collate([pair(0, 10, 5)])
    assert batch["texts"]["input_ids"].tolist() == [[1, 3, 4, 2]]


def test_pixels_are_normalised_and_of_the_size_of_the_model() -> None:
    """In the figures of ImageNet, unless the settings say otherwise."""
    smaller = pixels_of(task(training=False, size=12).collate(hand_made()))
    assert smaller.shape == (6, 3, 12, 12)
    pixels = pixels_of(task(training=False).collate(hand_made()))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = [((s["medium"] / 255 - mean) / std).transpose(2, 0, 1) for s in hand_made()]
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5)
    assert pixels.dtype == torch.float32


def pixels_of(batch: Batch) -> Tensor:
    values: Tensor = batch["media"]["pixel_values"]
    return values


AUGMENT = ImageInputConfig(
    modality="image", augment=AugmentConfig(enlarge=4, flip=0.5, contrast=0.5)
)


def test_augmentation_differs_between_epochs_and_not_between_runs() -> None:
    def pixels(epoch: int, seed: int = 0) -> Tensor:
        return pixels_of(task(seed=seed, inputs=AUGMENT).collate(hand_made(epoch)))

    assert torch.equal(pixels(0), pixels(0))
    assert not torch.equal(pixels(0), pixels(1))
    assert not torch.equal(pixels(0), pixels(0, seed=1))


def test_an_image_is_augmented_alike_in_any_batch() -> None:
    samples = hand_made()
    whole = pixels_of(task(inputs=AUGMENT).collate(samples))
    part = pixels_of(task(inputs=AUGMENT).collate(samples[2:4]))
    assert torch.equal(whole[2:4], part)


def test_validation_is_not_augmented_and_scores_all_widths() -> None:
    validating = task(training=False, inputs=AUGMENT, widths=[2, 4, 8], sample_width=True)
    plain = task(training=False)
    one, other = validating.collate(hand_made(0)), validating.collate(hand_made(1))
    assert torch.equal(pixels_of(one), pixels_of(other))
    assert torch.equal(pixels_of(one), pixels_of(plain.collate(hand_made())))
    assert one["widths"] == [2, 4, 8]


def test_one_width_is_drawn_per_batch_uniformly() -> None:
    """Over 10,000 batches, each known by its first sample and its epoch."""
    drawing = task(widths=[2, 4, 8], sample_width=True)
    count = 10_000
    drawn = Counter(
        drawing.collate([pair(at % 100, 10, 1, at // 100)])["widths"][0] for at in range(count)
    )
    sigma = (count * (1 / 3) * (2 / 3)) ** 0.5
    assert set(drawn) == {2, 4, 8}
    for width in drawn:
        assert abs(drawn[width] - count / 3) <= 3 * sigma
    again = drawing.collate([pair(0, 10, 1, 7)])["widths"]
    assert again == drawing.collate([pair(0, 10, 1, 7)])["widths"]


def source(cache: TrainingCache, training: bool = True, **settings: Any) -> PairSource:
    inputs = ImageInput(IMAGES, cache, image_size=16)
    return PairSource(cache, "train", inputs, config_of(**settings), seed=0, training=training)


def test_captions_are_dropped_at_the_rate_that_is_set(cache: TrainingCache) -> None:
    pairs = source(cache, text_dropout=0.3)
    drawn = [pairs.sample(i, e) for e in range(420) for i in range(len(pairs))][:10_000]
    dropped = [s for s in drawn if s["text_number"] == -1]
    assert abs(len(dropped) - 3000) <= 3 * (10_000 * 0.3 * 0.7) ** 0.5
    assert all(len(s["ids"]) == 0 for s in dropped)


def test_every_caption_of_an_image_comes_up_in_training(cache: TrainingCache) -> None:
    pairs = source(cache)
    rows = [r for r in cache.by_medium("train", "image") if len(r.captions)]
    for index in range(3):
        seen = {pairs.sample(index, epoch)["text_number"] for epoch in range(40)}
        assert seen == set(rows[index].captions.tolist())


def test_a_sample_is_a_pure_function_of_index_and_epoch(cache: TrainingCache) -> None:
    first, second = source(cache, text_dropout=0.5), source(cache, text_dropout=0.5)
    backwards = {i: second.sample(i, 3) for i in reversed(range(len(second)))}
    for i in range(len(first)):
        sample = first.sample(i, 3)
        assert sample["text_number"] == backwards[i]["text_number"]
        assert np.array_equal(sample["medium"], backwards[i]["medium"])


def test_evaluation_takes_the_first_caption_and_drops_none(cache: TrainingCache) -> None:
    pairs = source(cache, training=False, text_dropout=0.9)
    rows = [r for r in cache.by_medium("train", "image") if len(r.captions)]
    for index, row in enumerate(rows):
        assert pairs.sample(index, 0)["text_number"] == row.captions[0]


class FixedEmbeddings(nn.Module):
    """A model that embeds as it is told: what the loss does with it can be computed by hand."""

    def forward(self, media: dict[str, Tensor], texts: dict[str, Tensor]) -> Any:
        random = torch.Generator().manual_seed(0)
        return Embeddings(
            media=torch.randn(len(media["pixel_values"]), 8, generator=random),
            texts=torch.randn(len(texts["input_ids"]), 8, generator=random),
            logit_scale=torch.tensor(5.0),
            logit_bias=torch.tensor(-2.0),
        )


class Towers(nn.Module):
    """A dual encoder of two small maps, in float64 and without statistics over the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(3 * 16 * 16, 8).double()
        self.text = nn.Embedding(64, 8).double()
        self.log_scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def forward(self, media: dict[str, Tensor], texts: dict[str, Tensor]) -> Any:
        weights = texts["attention_mask"].unsqueeze(-1).double()
        return Embeddings(
            media=self.image(media["pixel_values"].flatten(1).double()),
            texts=(self.text(texts["input_ids"]) * weights).sum(dim=1) / weights.sum(dim=1),
            logit_scale=self.log_scale.exp(),
            logit_bias=self.bias,
        )


@pytest.mark.parametrize("widths", [[], [8], [2, 8]])
@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_the_loss_is_the_mean_over_widths_of_the_one_that_is_set(
    name: str, widths: list[int]
) -> None:
    aligning = task(training=False, loss=name, widths=widths)
    batch: Batch = aligning.collate(hand_made())
    model = FixedEmbeddings()
    out = model(batch["media"], batch["texts"])
    totals = []
    for width in widths or [8]:
        images, texts = unit(out.media, width), unit(out.texts, width)[batch["text_index"]]
        if name == "info_nce":
            loss = info_nce(images, texts, positives_of(batch), logit_scale=5.0)
        else:
            loss = sigmoid_pairs(
                images, texts, positives_of(batch), logit_scale=5.0, logit_bias=-2.0
            )
        totals.append(loss.total)
    result = aligning.loss(model, batch)
    torch.testing.assert_close(result.total, torch.stack(totals).mean(), rtol=1e-6, atol=0)
    assert result.count.item() == 6


def distinct_pairs(epoch: int) -> list[Sample]:
    """64 pairs with an image and a caption that come back far apart, and dropped captions."""
    return [
        pair(i, i % 60, -1 if i % 9 == 8 else i % 50, epoch) | {"epoch": epoch} for i in range(64)
    ]


@pytest.mark.parametrize("sizes", [[16] * 4, [7] * 9 + [1]], ids=["16 x 4", "7 x 9 + 1"])
@pytest.mark.parametrize("settings", [{}, {"widths": [2, 4, 8]}, {"sample_width": True}], ids=str)
@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_gradients_do_not_depend_on_how_a_window_is_cut(
    name: str, settings: dict[str, Any], sizes: list[int]
) -> None:
    if "sample_width" in settings:
        settings = {**settings, "widths": [2, 4, 8]}
    aligning, model = task(loss=name, **settings), Towers()
    samples = distinct_pairs(epoch=3)
    ends = np.cumsum(sizes)
    window = [aligning.collate(samples[e - n : e]) for n, e in zip(sizes, ends, strict=True)]
    if "sample_width" in settings:  # micro-batches would draw for themselves
        assert len({tuple(batch["widths"]) for batch in window}) > 1

    def gradients(batches: list[Batch]) -> list[Tensor]:
        model.zero_grad()
        scaler = torch.GradScaler("cpu", enabled=False)
        once = Gradients(model, aligning, ALONE, scaler)
        sums = once.accumulate(batches, range(len(batches)))
        return [p.grad / sums.count for p in model.parameters() if p.grad is not None]

    whole = gradients([aligning.collate(samples)])
    found = gradients(window)
    assert len(found) == len(whole) >= 3
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_job_has_model_data_and_spec(cache: TrainingCache) -> None:
    job = make(cache, widths=[4, 8])
    assert isinstance(job.model, DualEncoder)
    assert len(job.train) == 24
    assert job.validation is not None
    assert len(job.validation) == 8
    assert job.spec.widths == [4, 8]  # type: ignore[attr-defined]
    assert job.inputs["cache/images.bin"] == cache.digests["images.bin"]
    assert job.validation_task is not None
    assert job.task.validation_metrics is no_metrics
    assert no_metrics(job.model) == {}


def test_weights_depend_on_the_seed_alone(cache: TrainingCache) -> None:
    def weight(seed: int) -> Tensor:
        torch.manual_seed(seed + 100)  # the state of the global generator does not matter
        job = make(cache, seed)
        assert isinstance(job.model, DualEncoder)
        return job.model.media_projection.weight.detach()

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_a_split_without_captions_is_refused(
    cache: TrainingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingCache, "by_medium", lambda self, split, column: [])
    with pytest.raises(DataError, match="no image with a caption in split 'train'"):
        source(cache)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"widths": [4, 4]}, "positive and distinct"),
        ({"widths": [0]}, "positive and distinct"),
        ({"sample_width": True}, "sample_width is true, but widths is empty"),
        ({"text_dropout": 1.0}, "less than 1"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        config_of(**settings)
