"""Beam search says what a search without its cache and batches would say."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
from sacrebleu.metrics.bleu import BLEU
from transformers import BartConfig, BartForConditionalGeneration

from plumbline.evaluation.result import EvaluationJob
from plumbline.kinds.seq2seq.evaluate import evaluate, write_targets
from plumbline.kinds.seq2seq.model import Seq2Seq
from plumbline.kinds.seq2seq.settings import Seq2SeqEvaluationConfig
from plumbline.kinds.seq2seq.train import PairRows
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import Stored
from plumbline.training.task import TrainingJob
from tests.checkpoints import record_checkpoint
from tests.kinds.teaching import teach

BOS, EOS = 1, 2
MakeJob = Callable[..., TrainingJob]


def sources_of(job: TrainingJob, count: int = 8) -> list[list[int]]:
    assert isinstance(job.train, PairRows)
    return [job.train.source_ids(index).tolist() for index in range(count)]


@pytest.fixture
def job(make_job: MakeJob) -> TrainingJob:
    """A model whose weights are so large that its targets differ and end."""
    made = make_job("seq2seq")
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if parameter.ndim == 2 and "layers" in name:
                parameter.mul_(12)
    made.model.eval()
    return made


@torch.inference_mode()
def scores(model: Any, source: list[int], target: list[int]) -> torch.Tensor:
    """Log-probabilities [len(target) + 1, vocab] of what comes after bos and each token."""
    logits = model(
        input_ids=torch.tensor([source]),
        attention_mask=torch.ones(1, len(source), dtype=torch.long),
        decoder_input_ids=torch.tensor([[BOS, *target]]),
    )
    scored: torch.Tensor = logits[0].double().log_softmax(dim=-1)
    return scored


def greedy(model: Any, source: list[int], limit: int) -> list[int]:
    target: list[int] = []
    while len(target) < limit:
        token = int(scores(model, source, target)[-1].argmax())
        if token == EOS:
            break
        target.append(token)
    return target


def likelihood(model: Any, source: list[int], target: list[int], limit: int) -> float:
    """Of a target and its eos, which one that was cut at the limit does not have."""
    said = target if len(target) == limit else [*target, EOS]
    scored = scores(model, source, target)[: len(said)]
    return float(scored[range(len(said)), said].sum())


def write(model: Any, sources: list[list[int]], **settings: Any) -> list[list[int]]:
    base = {"beams": 1, "max_new_tokens": 9, "length_penalty": 1.0}
    return write_targets(model, sources, Seq2SeqEvaluationConfig(**(base | settings)))


def test_one_beam_is_greedy(job: TrainingJob) -> None:
    sources = sources_of(job)
    expected = [greedy(job.model, source, 9) for source in sources]
    assert len({tuple(target) for target in expected}) > 1
    for batch_size in (1, 3, 64):
        assert write(job.model, sources, batch_size=batch_size) == expected


def test_beams_never_find_less_likely_targets_than_greed(job: TrainingJob) -> None:
    sources, limit = sources_of(job), 6
    settings = {"max_new_tokens": limit, "length_penalty": 0.0}
    single, several = (write(job.model, sources, beams=n, **settings) for n in (1, 4))
    gains = []
    for source, one, other in zip(sources, single, several, strict=True):
        greed, beam = (likelihood(job.model, source, t, limit) for t in (one, other))
        assert beam >= greed - 1e-5
        gains.append(beam - greed)
    assert max(gains) > 1e-3


@pytest.mark.parametrize("beams", [2, 4])
def test_targets_do_not_depend_on_their_neighbours(job: TrainingJob, beams: int) -> None:
    sources = sources_of(job)
    first, *others = (
        write(job.model, sources, beams=beams, batch_size=size) for size in (64, 1, 7)
    )
    assert all(other == first for other in others)
    turned = write(job.model, sources[::-1], beams=beams)
    assert turned[::-1] == first


def test_a_limit_beyond_the_positions_is_kept_within_them(job: TrainingJob) -> None:
    targets = write(job.model, sources_of(job, 2), max_new_tokens=500)
    assert all(len(target) <= 96 for target in targets)


def test_a_checkpoint_writes_as_it_was_trained_here(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own start and forced tokens belong to another way of training."""
    torch.manual_seed(3)
    sides = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))
    }
    config = BartConfig(
        vocab_size=330,
        d_model=16,
        max_position_embeddings=64,
        forced_bos_token_id=7,
        decoder_start_token_id=2,
        init_std=0.6,
        **sides,
    )
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(tmp_path / "bart")
    job = make_job("seq2seq", model={"pretrained": "theirs"}, weights=weights)
    assert isinstance(job.model, Seq2Seq)
    job.model.eval()
    sources = sources_of(job, 4)
    expected = [greedy(job.model, source, 9) for source in sources]
    assert write(job.model, sources) == expected


def test_figures_are_those_of_the_predictions(
    make_job: MakeJob, caches: Callable[[str], TrainingCache]
) -> None:
    """Of a model that has learned some of the words, and some training targets by heart."""
    job, cache = make_job("seq2seq"), caches("pairs")
    teach(job, steps=60, lr=0.02)
    stored = Stored(job.model, job.spec, job.tokenizer, {})
    settings = Seq2SeqEvaluationConfig(split="train", beams=2, max_new_tokens=30)
    result = evaluate(EvaluationJob(stored, cache, settings, torch.device("cpu")))
    rows = cache.rows("train")
    sources, targets = ([cache.text(int(n)) for n in rows[name]] for name in ("source", "target"))
    assert [row["prompt"] for row in result.predictions] == sources
    assert [row["references"] for row in result.predictions] == [[t] for t in targets]
    assert result.metrics["pairs"] == len(sources)
    said = [row["prediction"] for row in result.predictions]
    hits = [one == other for one, other in zip(said, targets, strict=True)]
    assert [row["correct"] for row in result.predictions] == hits
    assert result.metrics["exact_match"] == pytest.approx(sum(hits) / len(hits), rel=1e-12)
    assert 0 < sum(hits) < len(hits)
    bleu = BLEU().corpus_score(said, [targets])
    assert result.metrics["bleu"] == pytest.approx(bleu.score, rel=1e-9)
    assert result.details["bleu_signature"].startswith("nrefs:1|")
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name, kind in (("rouge1", "rouge1"), ("rouge2", "rouge2"), ("rouge_l", "rougeL")):
        found = [scorer.score(t, s)[kind].fmeasure for t, s in zip(targets, said, strict=True)]
        assert result.metrics[name] == pytest.approx(sum(found) / len(found), rel=1e-9)


def test_perplexity_is_that_of_the_targets_scored_one_by_one(
    job: TrainingJob, caches: Callable[[str], TrainingCache]
) -> None:
    assert isinstance(job.validation, PairRows)
    total, count = 0.0, 0
    for index in range(len(job.validation)):
        source = job.validation.source_ids(index).tolist()
        target = job.validation.sample(index, 0)["labels"].tolist()[:-1]
        total -= likelihood(job.model, source, target, limit=10**6)
        count += len(target) + 1
    stored = Stored(job.model, job.spec, job.tokenizer, {})
    settings = Seq2SeqEvaluationConfig(split="val", beams=1, max_new_tokens=1, batch_size=4)
    result = evaluate(EvaluationJob(stored, caches("pairs"), settings, torch.device("cpu")))
    assert result.metrics["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_no_beam_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Seq2SeqEvaluationConfig(beams=0)
