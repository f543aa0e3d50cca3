"""Greedy decoding with a cache says what greedy decoding without one would say."""

import pytest
import torch
from torch import Tensor

from plumbline.kinds.vlm.generation import answer_nll, generate_answers, write_answers
from plumbline.kinds.vlm.model import Vlm
from plumbline.kinds.vlm.settings import VlmConfig
from plumbline.losses.language import token_cross_entropy
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.encoder_config import VitConfig
from plumbline.models.encoders import build_encoder
from plumbline.models.projector_config import MlpConfig

VOCAB, BOS, EOS = 12, 1, 2
PROMPTS = [[5, 6], [7], [8, 9, 3], [5, 6], [4, 4], []]
IMAGES = [0, 1, 2, 1, 0, 2]


@pytest.fixture(scope="module")
def model() -> Vlm:
    torch.manual_seed(0)
    vit = VitConfig(
        name="vit", image_size=16, patch_size=8, width=16, layers=1, heads=2, mlp_width=16
    )
    decoder = DecoderConfig(width=16, layers=2, heads=2, kv_heads=1, mlp_width=32)
    config = VlmConfig(projector=MlpConfig(name="mlp", width=16), decoder=decoder)
    built = Vlm(build_encoder(vit), config, VOCAB, 0).eval()
    for parameter in built.parameters():
        parameter.data *= 8 if parameter.ndim > 1 else 1  # so that logits differ and answers vary
    return built


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def scores(model: Vlm, features: Tensor, image: int, ids: list[int]) -> Tensor:
    """Logits [seq, vocab] of a text after an image, under the mask of one text."""
    length = 4 + len(ids)
    hidden = model.hidden_states(
        features[image : image + 1],
        torch.tensor([ids]),
        torch.arange(length)[None],
        torch.tensor([[[0, 1]] * 4 + [[1, 1]] * len(ids)]),
    )
    return model.logits(hidden)[0]


def slowly(model: Vlm, features: Tensor, limit: int, eos: int = EOS) -> list[list[int]]:
    answers = []
    for image, prompt in zip(IMAGES, PROMPTS, strict=True):
        answer: list[int] = []
        while len(answer) < limit:
            token = int(scores(model, features, image, [*prompt, BOS, *answer])[-1].argmax())
            if token == eos:
                break
            answer.append(token)
        answers.append(answer)
    return answers


def generate(
    model: Vlm, features: Tensor, limit: int, batch_size: int = 256, eos: int = EOS
) -> list[list[int]]:
    return generate_answers(
        model,
        features,
        IMAGES,
        PROMPTS,
        bos=BOS,
        eos=eos,
        max_new_tokens=limit,
        batch_size=batch_size,
    )


@pytest.mark.parametrize("batch_size", [1, 2, 256])
@pytest.mark.parametrize("limit", [1, 9])
def test_answers_are_those_of_decoding_without_a_cache(
    model: Vlm, features: Tensor, limit: int, batch_size: int
) -> None:
    expected = slowly(model, features, limit)
    assert len({tuple(answer) for answer in expected}) > 1
    assert generate(model, features, limit, batch_size) == expected


@pytest.mark.parametrize(("limit", "batch_size"), [(1, 2), (9, 2), (9, 256)])
def test_a_confidence_is_the_probability_of_all_that_was_written(
    model: Vlm, features: Tensor, limit: int, batch_size: int
) -> None:
    """What ends an answer is written too, where the limit leaves room for it."""
    eos = generate(model, features, 9)[0][2]
    written = write_answers(
        model,
        features,
        IMAGES,
        PROMPTS,
        bos=BOS,
        eos=eos,
        max_new_tokens=limit,
        batch_size=batch_size,
    )
    assert [answer.ids for answer in written] == generate(model, features, limit, eos=eos)
    ended = 0
    for image, prompt, answer in zip(IMAGES, PROMPTS, written, strict=True):
        ended += len(answer.ids) < limit
        said = [*answer.ids, eos] if len(answer.ids) < limit else answer.ids
        logits = scores(model, features, image, [*prompt, BOS, *said[:-1]])[-len(said) :]
        chosen = logits.double().log_softmax(-1).gather(1, torch.tensor(said)[:, None])
        assert answer.confidence == pytest.approx(float(chosen.sum().exp()), rel=1e-4)
    assert limit == 1 or 0 < ended < len(written)


def test_an_answer_ends_before_eos_while_others_go_on(model: Vlm, features: Tensor) -> None:
    eos = generate(model, features, 9)[0][2]  # a token that is known to come up
    answers = generate(model, features, 9, eos=eos)
    assert answers == slowly(model, features, 9, eos=eos)
    assert len({len(answer) for answer in answers}) > 1
    assert all(eos not in answer for answer in answers)


def test_the_image_decides(model: Vlm, features: Tensor) -> None:
    answers = generate_answers(
        model, features, [0, 1, 2], [[5, 6]] * 3, bos=BOS, eos=EOS, max_new_tokens=9
    )
    assert len({tuple(answer) for answer in answers}) > 1


def test_nothing_asked_is_nothing_answered(model: Vlm, features: Tensor) -> None:
    assert generate_answers(model, features, [], [], bos=1, eos=2, max_new_tokens=3) == []


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_the_cost_of_answers_is_over_their_tokens_and_eos(
    model: Vlm, features: Tensor, batch_size: int
) -> None:
    answers = [[3, 4], [5], [], [3, 4], [6, 7, 8], [9]]
    total, count = 0.0, 0
    for image, prompt, answer in zip(IMAGES, PROMPTS, answers, strict=True):
        ids = [*prompt, BOS, *answer, EOS]
        logits = scores(model, features, image, ids[:-1])[len(prompt) :]
        loss = token_cross_entropy(logits, torch.tensor(ids[len(prompt) + 1 :]))
        total += loss.total.item()
        count += len(answer) + 1
    found = answer_nll(
        model, features, IMAGES, PROMPTS, answers, bos=BOS, eos=EOS, batch_size=batch_size
    )
    assert found[0] == pytest.approx(total, rel=1e-5)
    assert found[1] == count
