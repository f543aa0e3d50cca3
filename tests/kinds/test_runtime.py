"""Searching, caching and filling of the bundle's code, against loops over every possibility."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from numpy.typing import NDArray
from torch import nn

from plumbline.export.graphs import DecoderSizes, TextDecoderGraph, decoder_sizes
from plumbline.kinds.language.runtime import Decoding
from plumbline.kinds.masked_lm.runtime import fill_gaps
from plumbline.kinds.seq2seq.runtime import _beam_search, _greedy
from plumbline.kinds.vlm.graphs import DecoderGraph
from plumbline.training.task import TrainingJob

MakeJob = Callable[..., TrainingJob]
Float64s = NDArray[np.float64]

VOCAB, EOS, LIMIT = 5, 0, 3


def table(seed: int) -> Callable[[list[list[int]]], Float64s]:
    """Log-probabilities [targets, vocab] that depend on all tokens so far."""

    def next_scores(targets: list[list[int]]) -> Float64s:
        rows = [
            np.random.default_rng([seed, *target]).standard_normal(VOCAB) * 2 - np.eye(VOCAB)[EOS]
            for target in targets
        ]
        return scipy.special.log_softmax(np.stack(rows), axis=1)

    return next_scores


def likelihood(seed: int, tokens: Sequence[int]) -> float:
    rows = [table(seed)([list(tokens[:at])])[0, token] for at, token in enumerate(tokens)]
    return float(sum(rows))


def all_targets() -> list[tuple[int, ...]]:
    """Those that end, and those that are cut off at the limit."""
    words = range(1, VOCAB)
    ended = [(*w, EOS) for n in range(LIMIT) for w in itertools.product(words, repeat=n)]
    return ended + list(itertools.product(words, repeat=LIMIT))


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
def test_as_many_beams_as_targets_find_the_best_of_all(penalty: float) -> None:
    for seed in range(40):
        every = {t: likelihood(seed, t) / len(t) ** penalty for t in all_targets()}
        best = max(every, key=lambda target: every[target])
        tokens, score = _beam_search(table(seed), EOS, LIMIT, len(every) + 1, penalty)
        assert tuple(tokens) == best
        assert score == pytest.approx(every[best], rel=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 2.5])
@pytest.mark.parametrize(("seed", "length"), [(3, 1), (28, 2), (5, 3), (0, 3)])
def test_one_beam_is_greed_and_scores_what_it_says(seed: int, length: int, penalty: float) -> None:
    """Of a target that ends, and of one that is cut off."""
    expected: list[int] = []
    while len(expected) < LIMIT and EOS not in expected:
        expected.append(int(table(seed)([expected])[0].argmax()))
    assert len(expected) == length
    for tokens, score in (
        _greedy(table(seed), EOS, LIMIT, penalty),
        _beam_search(table(seed), EOS, LIMIT, 1, penalty),
    ):
        assert tokens == expected
        assert score == pytest.approx(likelihood(seed, tokens) / length**penalty, rel=1e-12)


def test_gaps_are_filled_by_the_softmax_of_their_own_logits() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32) * 4
    found = fill_gaps(["a", "b", "c"], logits, 6, lambda ids: f"<{ids[0]}>")
    for row, masks in zip(scipy.special.softmax(logits, axis=1), found["masks"], strict=True):
        order = np.argsort(-row)
        assert [one["text"] for one in masks] == [f"<{token}>" for token in order]
        np.testing.assert_allclose([one["probability"] for one in masks], row[order], rtol=1e-5)
    first, second = logits.argmax(axis=1)
    assert found["text"] == f"a<{first}>b<{second}>c"


def as_graph(module: nn.Module) -> Callable[[Sequence[NDArray[Any]]], list[NDArray[np.float32]]]:
    """What is exported, still in torch, taking and giving arrays as a graph does."""

    @torch.inference_mode()
    def run(arrays: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        return [out.numpy() for out in module.eval()(*map(torch.from_numpy, arrays))]

    return run


def sizes_of(sizes: DecoderSizes) -> dict[str, int]:
    names = ("width", "layers", "kv_heads", "head_dim")
    return {name: getattr(sizes, name) for name in names}


def test_token_by_token_the_logits_are_those_of_the_whole_text(make_job: MakeJob) -> None:
    """Of a batch, from a prompt of several tokens on."""
    model: Any = make_job("causal_lm_stream").model.eval()
    ids = torch.randint(3, 20, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = model(ids)
    sizes = sizes_of(decoder_sizes(model.decoder))
    decoding = Decoding(as_graph(TextDecoderGraph(model.decoder)), sizes, batch=2)
    found = [decoding.prefill(ids[:, :4].numpy())]
    found += [decoding.step(ids[:, at].numpy()) for at in range(4, 9)]
    np.testing.assert_allclose(np.stack(found, axis=1), whole[:, 3:], rtol=0, atol=1e-5)


def test_an_image_is_seen_once_and_remembered(make_job: MakeJob) -> None:
    job = make_job("vlm")
    model: Any = job.model.eval()
    batch = job.task.collate([job.train.sample(index, 0) for index in range(2)])
    ids = torch.randint(3, 20, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        image = model.embed_image(model.image_encoder(batch["pixel_values"]).tokens)
        text = model.decoder.get_input_embeddings()(ids)
        inputs = torch.cat([image, text], dim=1)
        whole = model.decoder(inputs_embeds=inputs).logits[:, image.shape[1] :]
    sizes = {**sizes_of(decoder_sizes(model.decoder)), "image_tokens": image.shape[1]}
    decoding = Decoding(as_graph(DecoderGraph(model)), sizes, batch=2)
    found = [decoding.prefill(ids[:, :3].numpy(), image.numpy())]
    found += [decoding.step(ids[:, at].numpy()) for at in range(3, 7)]
    np.testing.assert_allclose(np.stack(found, axis=1), whole[:, 2:], rtol=0, atol=1e-5)
