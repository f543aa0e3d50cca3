"""Attention to an image is what transformers itself says of it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from plumbline.kinds.vlm.attention import SHOWN, Asked, attention_arrays, choose, look
from plumbline.kinds.vlm.generation import Written
from plumbline.kinds.vlm.model import Vlm
from tests.kinds.test_vlm_generation import BOS, features, model

__all__ = ["features", "model"]


def asked(image: int, confidence: float = 0.5, ids: tuple[int, ...] = (5, 6, 7)) -> Asked:
    return Asked(image, [8, 9], Written(list(ids), confidence))


@torch.inference_mode()
def by_transformers(model: Vlm, features: Tensor, one: Asked) -> Tensor:
    """[layers, heads, seq, seq] of question and answer behind the image."""
    ids = torch.tensor([[*one.prompt, BOS, *one.written.ids]])
    inputs = torch.cat(
        [
            model.embed_image(features[one.image : one.image + 1]),
            model.decoder.get_input_embeddings()(ids),
        ],
        dim=1,
    )
    before = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation("eager")
    try:
        said = model.decoder.model(inputs_embeds=inputs, output_attentions=True, use_cache=False)
    finally:
        model.decoder.set_attn_implementation(before)
    return torch.stack([layer[0] for layer in said.attentions])


@pytest.mark.parametrize("ids", [(), (5,), (5, 6, 7)])
def test_it_is_the_mean_over_heads_and_over_the_positions_that_write(
    model: Vlm, features: Tensor, ids: tuple[int, ...]
) -> None:
    one = asked(1, ids=ids)
    found = look(model, features[1], one, BOS)
    whole = by_transformers(model, features, one)
    writing = len(ids) + 1  # bos writes the first token, the last one writes eos
    expected = whole[:, :, -writing:, : model.image_tokens].mean(dim=(1, 2))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-7)
    assert (found.sum(axis=1) < 1).all()


def test_looking_leaves_the_model_as_it_was(model: Vlm, features: Tensor) -> None:
    before = model.decoder.config._attn_implementation
    look(model, features[0], asked(0), BOS)
    assert model.decoder.config._attn_implementation == before


def test_the_surest_mistakes_come_first_then_right_ones_of_other_images() -> None:
    answers = [asked(image, confidence=image / 100) for image in range(50)]
    correct = [image % 2 == 0 for image in range(50)]
    chosen = choose(answers, correct)
    assert len(chosen) == SHOWN
    assert chosen[:4] == [49, 47, 45, 43]
    assert chosen[4:] == [0, 16, 32, 48]


def test_few_right_or_few_wrong_answers_leave_their_places_to_the_others() -> None:
    answers = [asked(image) for image in range(20)]
    assert len(choose(answers, [False] * 20)) == SHOWN
    assert len(choose(answers, [True] * 20)) == SHOWN
    assert choose(answers[:2], [True, False]) == [1, 0]
    assert choose([], []) == []


def test_an_image_is_looked_at_once_among_the_wrong_and_once_among_the_right() -> None:
    answers = [asked(0, 0.9), asked(0, 0.8), asked(1, 0.1), asked(0, 0.7), asked(0, 0.6)]
    assert choose(answers, [False, False, False, True, True]) == [0, 2, 3]


def test_maps_have_the_rows_and_columns_of_the_tokens(model: Vlm, features: Tensor) -> None:
    arrays, details = attention_arrays(model, features, [asked(0), asked(1)], [True, False], BOS)
    assert arrays["attention"].shape == (2, 2, 2, 2)  # two answers, two layers, 2 by 2 tokens
    assert arrays["attention_of"].tolist() == [1, 0]
    np.testing.assert_array_equal(
        arrays["attention"][1].reshape(2, 4), look(model, features[0], asked(0), BOS)
    )
    assert details["attention"] == {"layers": 2, "heads": "mean", "tokens": 4}


def test_tokens_that_are_no_square_have_no_map(
    model: Vlm, features: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "image_tokens", 3)
    assert attention_arrays(model, features, [asked(0)], [True], BOS) == ({}, {})
    assert attention_arrays(model, features, [], [], BOS) == ({}, {})
