"""Causal and masked language models: which tokens are given, which are asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plumbline.batch import IGNORE_INDEX, Batch
from plumbline.errors import DataError
from plumbline.kinds.causal_lm.settings import CausalLmTaskConfig
from plumbline.kinds.language.rows import TokenBlocks
from plumbline.kinds.masked_lm.model import MaskedLmSpec
from plumbline.kinds.masked_lm.settings import MaskedLmConfig
from plumbline.kinds.masked_lm.train import bind_collate, mask_tokens
from plumbline.loading.cache_reader import TrainingCache
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import TrainingJob
from tests.tiny import make_cache, write_rows

Caches = Callable[[str], TrainingCache]
MakeJob = Callable[..., TrainingJob]
SPECIAL = SpecialIds(pad=0, bos=1, eos=2)
MASK, FIRST_WORD, VOCAB = 3, 4, 60


def stream(cache: TrainingCache, split: str) -> list[int]:
    """All texts of a split with eos between them."""
    texts = [[*cache.ids(int(n)).tolist(), SPECIAL.eos] for n in cache.rows(split)["text"]]
    return [token for text in texts for token in text][:-1]


@pytest.mark.parametrize("block", [2, 24, 50])
def test_blocks_of_evaluation_predict_every_token_but_the_first_once(
    make_job: MakeJob, caches: Caches, block: int
) -> None:
    """Labels are the tokens one place later."""
    job = make_job("causal_lm_stream", task={"block_size": block})
    assert job.validation is not None
    expected = stream(caches("text"), "val")
    found = []
    for index in range(len(job.validation)):
        batch = job.task.collate([job.validation.sample(index, 0)])
        ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        assert ids[1:] == labels[:-1]
        assert len(ids) <= block
        found += labels
    assert found == expected[1:]


def test_the_grid_of_blocks_moves_between_epochs_and_stays_within_the_stream(
    caches: Caches,
) -> None:
    whole = stream(caches("text"), "train")
    blocks = TokenBlocks(caches("text"), "train", 24, seed=0, training=True)
    starts = set()
    for epoch in range(40):
        joined = blocks.sample(0, epoch)["ids"].tolist()
        for index in range(1, len(blocks)):
            ids = blocks.sample(index, epoch)["ids"].tolist()
            assert len(ids) == 25
            assert ids[0] == joined[-1]
            joined += ids[1:]
        text, at = " ".join(map(str, whole)), " ".join(map(str, joined))
        assert at in text
        starts.add(text.index(at))
    assert len(starts) > 10
    assert max(len(whole) - 1 - 24 * len(blocks), 0) >= 24  # the room in which it moves


def test_a_stream_shorter_than_a_block_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    rows = [{"sample_id": str(i), "text": "ab"} for i in range(3)]
    write_rows(tmp_path / "clean", "train", rows)
    cache = make_cache(tmp_path, {"tokenizer": {"kind": "char"}})
    assert len(TokenBlocks(cache, "train", 7, seed=0, training=True)) == 1
    with pytest.raises(DataError, match=r"8 tokens of text, at least 9 .*block_size = 8"):
        TokenBlocks(cache, "train", 8, seed=0, training=True)


def test_a_row_is_framed_and_an_answer_alone_is_labelled(make_job: MakeJob, caches: Caches) -> None:
    rows, answers = (make_job(f"causal_lm_{name}") for name in ("rows", "answers"))
    text = caches("text").ids(int(caches("text").rows("train")["text"][0])).tolist()
    batch = rows.task.collate([rows.train.sample(0, 0)])
    whole = [1, *text, 2][:41]
    assert batch["input_ids"][0].tolist() == whole[:-1]
    assert batch["labels"][0].tolist() == whole[1:]
    cache = caches("answers")
    batch = answers.task.collate([answers.train.sample(0, 0)])
    question, answer = (
        cache.ids(int(cache.rows("train")[name][0])).tolist() for name in ("question", "answer")
    )
    assert batch["input_ids"][0].tolist() == [*question, 1, *answer]
    assert batch["labels"][0].tolist() == [IGNORE_INDEX] * len(question) + [*answer, 2]


@pytest.mark.parametrize("name", ["causal_lm_rows", "causal_lm_answers", "masked_lm_rows"])
def test_a_sample_is_never_longer_than_it_is_said_to_be(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    source: Any = job.train
    for index in range(len(source)):
        batch = job.task.collate([source.sample(index, 0)])
        assert batch["input_ids"].shape[1] <= source.length(index) <= 41


def spec(share: float = 0.15) -> MaskedLmSpec:
    return MaskedLmSpec(
        model=MaskedLmConfig(),
        vocab_size=VOCAB,
        special_ids=SPECIAL,
        mask_id=MASK,
        masked_share=share,
        block_size=500,
        packed=False,
    )


def masked(count: int, share: float = 0.15, epoch: int = 0, length: int = 50) -> Batch:
    draw = np.random.default_rng(0)
    ids = [np.concatenate([[1], draw.integers(4, VOCAB, length), [2]]) for _ in range(count)]
    samples = [{"index": i, "epoch": epoch, "ids": row} for i, row in enumerate(ids)]
    batch = bind_collate(spec(share), 0)(samples)
    return batch | {"original": torch.from_numpy(np.stack(ids))}


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_the_share_of_tokens_to_guess_is_the_one_that_is_set(share: float) -> None:
    """Within 3 sigma, and of those 80 % hidden, 10 % replaced, 10 % kept."""
    batch = masked(600, share)
    chosen = batch["labels"] != IGNORE_INDEX
    words = 600 * 50
    count = int(chosen.sum())
    assert abs(count - share * words) <= 3 * (words * share * (1 - share)) ** 0.5
    assert torch.equal(batch["labels"][chosen], batch["original"][chosen])
    assert torch.equal(batch["input_ids"][~chosen], batch["original"][~chosen])
    assert not chosen[:, [0, -1]].any()  # what frames a row is never asked for
    given, label = batch["input_ids"][chosen], batch["labels"][chosen]
    assert given.min() >= MASK
    # A replacement is the token itself now and then.
    same = 0.1 + 0.1 / (VOCAB - FIRST_WORD)
    for found, rate in ((given == MASK, 0.8), (given == label, same)):
        assert abs(int(found.sum()) - rate * count) <= 3 * (count * rate * (1 - rate)) ** 0.5
    replaced = given[(given != MASK) & (given != label)]
    assert set(replaced.tolist()) == set(range(FIRST_WORD, VOCAB))


def test_what_is_hidden_is_drawn_anew_each_epoch() -> None:
    first, second, again = (masked(20, epoch=epoch) for epoch in (0, 1, 0))
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert not torch.equal(first["labels"], second["labels"])
    part = masked(7)
    assert torch.equal(first["input_ids"][:7], part["input_ids"])  # in any company


def test_a_short_row_has_something_to_guess_and_an_empty_one_nothing() -> None:
    batch = masked(200, share=0.01, length=2)
    assert (batch["labels"] != IGNORE_INDEX).any(dim=1).all()
    _, labels = mask_tokens(np.array([1, 2]), spec(), np.random.default_rng(0), FIRST_WORD)
    assert labels.tolist() == [IGNORE_INDEX] * 2


def test_the_mask_of_the_tokenizer_is_used(make_job: MakeJob) -> None:
    job = make_job("masked_lm_rows")
    assert job.tokenizer is not None
    batch = job.task.collate([job.train.sample(i, 0) for i in range(24)])
    hidden = batch["input_ids"] == job.tokenizer.token_to_id("<mask>")
    assert hidden.any()
    assert (batch["labels"][hidden] != IGNORE_INDEX).all()
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != 0).long())


@pytest.mark.parametrize("name", ["causal_lm_rows", "masked_lm_rows", "seq2seq"])
def test_a_dataset_without_text_is_refused(make_job: MakeJob, caches: Caches, name: str) -> None:
    with pytest.raises(DataError, match="this dataset has no text"):
        make_job(name, cache=caches("signals"))


@pytest.mark.parametrize("name", ["causal_lm_stream", "causal_lm_rows", "seq2seq"])
def test_a_dataset_without_the_columns_is_refused(
    make_job: MakeJob, caches: Caches, name: str
) -> None:
    with pytest.raises(DataError, match="split 'train'"):
        make_job(name, cache=caches("answers"))


def test_answers_cannot_be_a_stream() -> None:
    with pytest.raises(ValidationError, match="rows is stream, but questions and answers are rows"):
        CausalLmTaskConfig(text="question_answer", rows="stream")
