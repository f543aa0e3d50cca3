"""Attention to an image is what transformers itself says of it."""

import pytest
import torch
from torch import Tensor

from plumbline.data.turns import IMAGE_ID
from plumbline.kinds.vlm.attention import SHOWN, Asked, ask_about, choose, look
from plumbline.kinds.vlm.generation import Written
from plumbline.kinds.vlm.model import Vlm
from plumbline.kinds.vlm.talks import Talk, embed_talks
from tests.kinds.test_vlm_generation import BOS, features, model

__all__ = ["features", "model"]

PROMPT = [8, 9]


def asked(image: int, confidence: float = 0.5, ids: tuple[int, ...] = (5, 6, 7)) -> Asked:
    return Asked(ask_about(4, PROMPT, BOS, image), image, Written(list(ids), confidence))


@torch.inference_mode()
def by_transformers(model: Vlm, features: Tensor, one: Asked) -> Tensor:
    """[layers, heads, seq, seq] of question and answer behind the image."""
    ids = torch.tensor([[*PROMPT, BOS, *one.written.ids]])
    text = model.decoder.get_input_embeddings()(ids)
    return weights_of(model, torch.cat([model.embed_image(features[1:2]), text], dim=1))


@torch.inference_mode()
def weights_of(model: Vlm, inputs: Tensor) -> Tensor:
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
    found = look(model, features, one)
    whole = by_transformers(model, features, one)
    writing = len(ids) + 1  # bos writes the first token, the last one writes eos
    expected = whole[:, :, -writing:, : model.image_tokens].mean(dim=(1, 2))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-7)
    assert (found.sum(axis=1) < 1).all()


def test_looking_leaves_the_model_as_it_was(model: Vlm, features: Tensor) -> None:
    before = model.decoder.config._attn_implementation
    look(model, features, asked(0))
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


def test_in_a_conversation_the_first_image_is_looked_at(model: Vlm, features: Tensor) -> None:
    """Wherever it stands: text comes before it, and another image behind it."""
    tokens = [IMAGE_ID] * model.image_tokens
    talk = Talk([4, 5, *tokens, 6, *tokens, BOS], [2, 0])
    one = Asked(talk, 2, Written([7], 0.5))
    found = look(model, features, one)
    inputs = embed_talks(model, features, [Talk([*talk.ids, 7], talk.images)])
    whole = weights_of(model, inputs)
    expected = whole[:, :, -2:, 2:6].mean(dim=(1, 2))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-7)


def test_conversations_without_an_image_are_passed_over() -> None:
    silent = Asked(Talk([4, 5, BOS], []), None, Written([7], 0.9))
    assert choose([silent, asked(3)], [False, False]) == [1]
