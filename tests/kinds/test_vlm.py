"""Packing changes nothing: a segment gets what it would get in a sequence of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plumbline.batch import IGNORE_INDEX, Batch, LossSum, Sample
from plumbline.errors import CheckpointError, DataError
from plumbline.kinds.vlm.model import Vlm
from plumbline.kinds.vlm.rows import dialogue_mask, join_segment, text_places
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.kinds.vlm.train import DialogueSource, build
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.kept_features import KeptFeatures
from plumbline.losses.language import token_cross_entropy
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.projector_config import MlpConfig
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import JobContext, TrainingJob

SPECIAL = SpecialIds(pad=0, bos=1, eos=2)
DECODER = DecoderConfig(width=16, layers=2, heads=2, kv_heads=1, mlp_width=16)
IMAGE_TOKENS = 4


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # features of frozen encoders go below it


@pytest.fixture(scope="module")
def cache(scenes_cache: Path) -> TrainingCache:
    return TrainingCache(scenes_cache)


def job(
    cache: TrainingCache, start: Path, freeze: list[str] | None = None, **task: Any
) -> TrainingJob:
    frozen = ["image_encoder"] if freeze is None else freeze
    model = VlmConfig(projector=MlpConfig(name="mlp", width=16), decoder=DECODER)
    context = JobContext(cache=cache, seed=0, start=start, freeze=frozen)
    built = build(context, model, VlmTaskConfig(**{"rows": "padded", **task}))
    built.model.eval()
    return built


@pytest.fixture
def vlm(cache: TrainingCache, aligned_folder: Path) -> TrainingJob:
    return job(cache, aligned_folder)


def model_of(built: TrainingJob) -> Vlm:
    assert isinstance(built.model, Vlm)
    return built.model


def samples(built: TrainingJob, count: int = 5, epoch: int = 0) -> list[Sample]:
    return [built.train.sample(i, epoch) for i in range(count)]


def scored(built: TrainingJob, batch: Batch) -> tuple[float, int]:
    with torch.inference_mode():
        found: LossSum = built.task.loss(built.model, batch)
    return found.total.item(), int(found.count)


def test_the_packed_loss_is_the_sum_over_sequences_of_one_segment(vlm: TrainingJob) -> None:
    packed = scored(vlm, vlm.task.collate(samples(vlm)))
    alone = [
        scored(vlm, vlm.task.collate([{**sample, "segments": [segment]}]))
        for sample in samples(vlm)
        for segment in sample["segments"]
    ]
    assert len(alone) == 5 * 6  # one caption and five questions an image
    assert packed[0] == pytest.approx(sum(total for total, _ in alone), rel=1e-5)
    assert packed[1] == sum(count for _, count in alone)


def test_masks_of_rows_of_one_text_look_alike_to_a_compiler_whatever_their_length() -> None:
    masks = [text_places(np.ones((3, seq), np.int64), 4) for seq in (5, 9)]
    assert [mask.shape for mask in masks] == [(3, 0, 2)] * 2
    assert masks[0].stride() == masks[1].stride()


def test_the_gradient_of_a_packed_row_is_that_of_its_segments(vlm: TrainingJob) -> None:
    (sample,) = samples(vlm, 1)
    parameters = [p for n, p in vlm.model.named_parameters() if not n.startswith("image_encoder")]
    packed = vlm.task.loss(vlm.model, vlm.task.collate([sample])).total
    alone = sum(
        vlm.task.loss(vlm.model, vlm.task.collate([{**sample, "segments": [s]}])).total
        for s in sample["segments"]
    )
    assert isinstance(alone, Tensor)
    for one, other in zip(
        torch.autograd.grad(packed, parameters), torch.autograd.grad(alone, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_loss_equals_the_causal_loss_over_whole_rows(vlm: TrainingJob) -> None:
    batch = vlm.task.collate(samples(vlm))
    model = model_of(vlm)
    with torch.inference_mode():
        hidden = model.hidden_states(
            batch["image_features"], batch["input_ids"], batch["position_ids"], batch["mask"]
        )
        expected = token_cross_entropy(model.logits(hidden[:, :-1]), batch["labels"][:, 1:])
    total, count = scored(vlm, batch)
    assert total == pytest.approx(expected.total.item(), rel=1e-6)
    assert count == expected.count.item()


def test_padding_changes_nothing(vlm: TrainingJob) -> None:
    rows = [vlm.task.collate([sample]) for sample in samples(vlm)]
    assert len({row["input_ids"].shape[1] for row in rows}) > 1
    together = scored(vlm, vlm.task.collate(samples(vlm)))
    alone = [scored(vlm, row) for row in rows]
    assert together[0] == pytest.approx(sum(total for total, _ in alone), rel=1e-5)
    assert together[1] == sum(count for _, count in alone)


def join(question: list[int], answer: list[int], limit: int = 9) -> tuple[list[int], list[int]]:
    segment = (np.array(question, np.int32), np.array(answer, np.int32))
    ids, labels = join_segment(segment, SPECIAL, limit)
    return ids.tolist(), labels.tolist()


def test_a_segment_is_prompt_bos_answer_eos_and_only_the_answer_is_labelled() -> None:
    no = IGNORE_INDEX
    assert join([7, 8, 9], [5, 6]) == ([7, 8, 9, 1, 5, 6, 2], [no, no, no, no, 5, 6, 2])
    assert join([], [5]) == ([1, 5, 2], [no, 5, 2])
    assert join([7, 8, 9], [5, 6], limit=1) == ([7, 1, 5, 2], [no, no, 5, 2])


def test_another_question_of_another_length_has_as_many_labels() -> None:
    for question in ([7], [7, 8, 9, 3], []):
        assert sum(label != IGNORE_INDEX for label in join(question, [5, 6])[1]) == 3


def test_the_labels_of_a_batch_are_its_answers(vlm: TrainingJob, cache: TrainingCache) -> None:
    batch = vlm.task.collate(samples(vlm))
    for row, sample in zip(batch["labels"], samples(vlm), strict=True):
        expected = [[*answer.tolist(), SPECIAL.eos] for _, answer in sample["segments"]]
        assert row[row != IGNORE_INDEX].tolist() == [i for ids in expected for i in ids]


def test_positions_of_every_segment_begin_after_the_image(vlm: TrainingJob) -> None:
    batch = vlm.task.collate(samples(vlm, 2))
    for positions, sample in zip(batch["position_ids"], samples(vlm, 2), strict=True):
        assert positions[:IMAGE_TOKENS].tolist() == [0, 1, 2, 3]
        lengths = [len(q) + 1 + len(a) + 1 for q, a in sample["segments"]]
        expected = [IMAGE_TOKENS + i for length in lengths for i in range(length)]
        assert positions[IMAGE_TOKENS : IMAGE_TOKENS + len(expected)].tolist() == expected


def test_the_mask_agrees_with_its_definition_position_by_position() -> None:
    segment = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 3, 3, 0, 0]])
    mask = dialogue_mask(text_places(segment, 2))
    assert mask.shape == (2, 1, 8, 8)
    for row, numbers in zip(mask[:, 0], segment.tolist(), strict=True):
        whole = ["image", "image", *numbers]
        for at, one in enumerate(whole):
            for to, other in enumerate(whole):
                sees = to <= at and (other == "image" or (one == other and one != 0))
                assert bool(row[at, to]) == sees, (at, to)


def test_a_future_or_foreign_token_has_exactly_no_influence(vlm: TrainingJob) -> None:
    batch = vlm.task.collate(samples(vlm, 1))
    model = model_of(vlm)
    lengths = [len(q) + 1 + len(a) + 1 for q, a in samples(vlm, 1)[0]["segments"]]
    segment = np.repeat(np.arange(len(lengths)), lengths)

    def hidden(input_ids: Tensor) -> Tensor:
        with torch.inference_mode():
            return model.hidden_states(
                batch["image_features"], input_ids, batch["position_ids"], batch["mask"]
            )[0]

    before = hidden(batch["input_ids"])
    for changed in range(0, len(segment), 5):
        other = batch["input_ids"].clone()
        other[0, changed] = (other[0, changed] + 7) % 300
        differs = (hidden(other) != before).any(dim=-1).numpy()
        may_differ = (segment == segment[changed]) & (np.arange(len(segment)) >= changed)
        assert differs[changed]
        assert not (differs & ~may_differ).any()


def test_every_text_position_sees_the_image(vlm: TrainingJob) -> None:
    batch = vlm.task.collate(samples(vlm, 1))
    features = batch["image_features"].clone().requires_grad_()
    hidden = model_of(vlm).hidden_states(
        features, batch["input_ids"], batch["position_ids"], batch["mask"]
    )
    for at in (0, hidden.shape[1] - 1):
        (gradient,) = torch.autograd.grad(hidden[0, at].square().sum(), features, retain_graph=True)
        assert (gradient[0].abs().sum(dim=-1) > 0).all()


def test_a_frozen_encoder_runs_ahead_and_an_unfrozen_one_sees_pixels(
    cache: TrainingCache, aligned_folder: Path
) -> None:
    frozen, free = job(cache, aligned_folder), job(cache, aligned_folder, freeze=[])
    one, other = (built.task.collate(samples(built)) for built in (frozen, free))
    assert "pixel_values" not in one
    assert one["image_features"].shape == (5, IMAGE_TOKENS, 32)
    assert "image_features" not in other
    assert other["pixel_values"].shape == (5, 3, 16, 16)
    with torch.inference_mode():
        tokens = model_of(free).image_encoder(other["pixel_values"]).tokens
    torch.testing.assert_close(one["image_features"], tokens, rtol=1e-5, atol=1e-6)
    assert scored(frozen, one)[0] == pytest.approx(scored(free, other)[0], rel=1e-5)


def test_an_unfrozen_encoder_gets_gradients(cache: TrainingCache, aligned_folder: Path) -> None:
    free = job(cache, aligned_folder, freeze=[])
    free.task.loss(free.model, free.task.collate(samples(free))).total.backward()
    encoder = model_of(free).image_encoder
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def source(cache: TrainingCache, training: bool = True, **task: Any) -> DialogueSource:
    prompt = np.array([9, 9])
    config = VlmTaskConfig(**task)
    features = KeptFeatures(np.zeros((40, 4, 32), np.float32), np.arange(40))
    return DialogueSource(cache, "train", config, prompt, features, seed=0, training=training)


@pytest.mark.parametrize(
    ("settings", "captions", "questions"),
    [
        ({}, 1, 5),
        ({"captions_per_image": 2}, 2, 5),
        ({"captions_per_image": 0}, 0, 5),
        ({"questions_per_image": 2}, 1, 2),
        ({"captions_per_image": 9, "questions_per_image": 0}, 2, 0),
    ],
)
def test_an_epoch_draws_as_many_captions_and_questions_as_are_set(
    cache: TrainingCache, settings: dict[str, Any], captions: int, questions: int
) -> None:
    dialogues = source(cache, **settings)
    for index in range(3):
        segments = dialogues.sample(index, 0)["segments"]
        said = [prompt.tolist() == [9, 9] for prompt, _ in segments]
        assert (sum(said), len(said) - sum(said)) == (captions, questions)


def test_draws_differ_between_epochs_and_not_between_runs(cache: TrainingCache) -> None:
    def drawn(epoch: int) -> list[list[int]]:
        dialogues = source(cache, questions_per_image=3)
        return [
            question.tolist() + answer.tolist()
            for index in range(5)
            for question, answer in dialogues.sample(index, epoch)["segments"]
        ]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_evaluation_asks_everything_and_describes_once(cache: TrainingCache) -> None:
    dialogues = source(cache, training=False, captions_per_image=2, questions_per_image=1)
    segments = dialogues.sample(0, 0)["segments"]
    assert len(segments) == 6
    rows = cache.by_medium("train", "image")[0]
    assert segments[0][1].tolist() == cache.ids(int(rows.captions[0])).tolist()
    without = source(cache, training=False, captions_per_image=0)
    assert len(without.sample(0, 0)["segments"]) == 5


def test_evaluation_asks_no_question_where_training_asks_none(cache: TrainingCache) -> None:
    dialogues = source(cache, training=False, questions_per_image=0)
    assert len(dialogues.sample(0, 0)["segments"]) == 1


def test_an_image_of_which_nothing_is_drawn_is_left_out(
    cache: TrainingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = cache.by_medium("train", "image")
    only_captions = [type(rows[0])(r.number, r.captions, r.questions[:0]) for r in rows[:2]]
    monkeypatch.setattr(
        TrainingCache, "by_medium", lambda self, split, column: only_captions + rows[2:]
    )
    dialogues = source(cache, captions_per_image=0)
    assert all(dialogues.sample(i, 0)["segments"] for i in range(len(dialogues)))


def test_a_split_with_nothing_to_say_is_refused(
    cache: TrainingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingCache, "by_medium", lambda self, split, column: [])
    with pytest.raises(DataError, match="no question and no caption in split 'train'"):
        source(cache)


def test_a_start_that_is_no_aligned_encoder_is_refused(
    cache: TrainingCache, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no digests\.json"):
        job(cache, tmp_path)


def test_the_job_knows_what_it_starts_from(vlm: TrainingJob, cache: TrainingCache) -> None:
    assert vlm.inputs["start"] != vlm.inputs["cache/images.bin"]
    assert len(vlm.train) == 24
    assert vlm.validation is not None
    assert len(vlm.validation) == 8
    assert vlm.tokenizer is not None
    prompt = vlm.tokenizer.encode("describe the image", add_special_tokens=False).ids
    assert vlm.train.sample(0, 0)["segments"][0][0].tolist() == prompt


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(
        ValidationError, match="captions_per_image and questions_per_image are both 0"
    ):
        VlmTaskConfig(captions_per_image=0, questions_per_image=0)
