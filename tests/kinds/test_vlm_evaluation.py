import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
from sacrebleu.metrics.bleu import BLEU

from plumbline.evaluation.result import Evaluation
from plumbline.files import write_digests
from plumbline.kinds.vlm.attention import Asked, ask_about, attention_arrays
from plumbline.kinds.vlm.evaluate import VlmEvaluator
from plumbline.kinds.vlm.export import choose_samples
from plumbline.kinds.vlm.features import encode_images
from plumbline.kinds.vlm.generation import Written
from plumbline.kinds.vlm.model import StoredVlm, VlmSpec
from plumbline.kinds.vlm.settings import VlmConfig, VlmEvaluationConfig, VlmTaskConfig
from plumbline.kinds.vlm.train import build
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.projector_config import MlpConfig
from plumbline.models.stored import load_model, save_model
from plumbline.training.task import JobContext
from tests.kinds.teaching import teach

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stored(
    scenes_cache: Path, aligned_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> StoredVlm:
    """A model that has learned enough to be right now and then."""
    decoder = DecoderConfig(width=16, layers=1, heads=2, kv_heads=2, mlp_width=32)
    config = VlmConfig(projector=MlpConfig(name="mlp", width=16), decoder=decoder)
    context = JobContext(cache=TrainingCache(scenes_cache), seed=0, start=aligned_folder)
    job = build(context, config, VlmTaskConfig())
    teach(job, steps=60, lr=0.02)
    folder = tmp_path_factory.mktemp("vlm")
    save_model(folder, job.model, job.spec, job.tokenizer)
    write_digests(folder)
    return load_model(folder)


def evaluate(stored: StoredVlm, cache: Path, batch_size: int = 256) -> Evaluation:
    config = VlmEvaluationConfig(batch_size=batch_size, max_new_tokens=24)
    return VlmEvaluator(stored, TrainingCache(cache), config, CPU).evaluate()


def shared_words(said: str, meant: str) -> float:
    """F1 of two answers without repeated words."""
    one, other = set(said.split()), set(meant.split())
    return 2 * len(one & other) / (len(one) + len(other))


def test_figures_of_answers_are_those_of_the_predictions(
    stored: StoredVlm, scenes_cache: Path
) -> None:
    result = evaluate(stored, scenes_cache)
    asked = [p for p in result.predictions if p["kind"] == "question"]
    assert len(asked) == result.metrics["questions"] == 40
    hits = [p["prediction"] == p["references"][0] for p in asked]
    assert [p["correct"] for p in asked] == hits
    assert result.metrics["exact_match"] == pytest.approx(sum(hits) / 40, rel=1e-12)
    assert 0 < sum(hits) < 40
    assert result.metrics["exact_match_low"] <= sum(hits) / 40 <= result.metrics["exact_match_high"]
    assert all(0 <= p["confidence"] <= 1 for p in result.predictions)
    assert len({p["confidence"] for p in asked}) > 20
    overlap = [shared_words(p["prediction"], p["references"][0]) for p in asked]
    assert result.metrics["token_f1"] == pytest.approx(sum(overlap) / 40, rel=1e-12)
    by_prompt = {row["question"]: row for row in result.tables["by_prompt"]}
    assert sum(row["count"] for row in by_prompt.values()) == 40
    for start, row in by_prompt.items():
        of_start = [h for h, p in zip(hits, asked, strict=True) if p["prompt"].startswith(start)]
        assert row["exact_match"] == pytest.approx(sum(of_start) / row["count"], rel=1e-12)


def test_attention_is_kept_of_some_answers_with_what_the_encoder_saw(
    stored: StoredVlm, scenes_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(stored, scenes_cache)
    maps, of, images = (result.arrays[f"attention{end}"] for end in ("", "_of", "_images"))
    side = math.isqrt(stored.model.image_tokens)
    assert maps.shape == (len(of), 1, side, side)
    assert 0 < len(of) <= 8
    cached = TrainingCache(scenes_cache).images
    for number, image in zip(of.tolist(), images, strict=True):
        asked = result.predictions[number]
        assert asked["kind"] == "question"
        assert (cached[asked["image"]] == image).all()  # of the encoder's own size
    assert result.details["attention"]["tokens"] == side**2
    # Three tokens are no square: there is no map to draw.
    monkeypatch.setattr(stored.model, "image_tokens", 3)
    one = Asked(ask_about(3, [5], 1, 0), 0, Written([5], 0.5))
    cache = TrainingCache(scenes_cache)
    assert attention_arrays(stored, cache, torch.zeros(1, 1, 1), [one], [True]) == ({}, {})


def test_a_model_that_learned_no_captions_is_asked_for_none(
    stored: StoredVlm, scenes_cache: Path, aligned_folder: Path
) -> None:
    context = JobContext(cache=TrainingCache(scenes_cache), seed=0, start=aligned_folder)
    decoder = DecoderConfig(width=16, layers=1, heads=2, kv_heads=2, mlp_width=32)
    job = build(context, VlmConfig(decoder=decoder), VlmTaskConfig(captions_per_image=0))
    assert isinstance(job.spec, VlmSpec)
    assert job.spec.model_dump()["captions"] is False
    assert "captions" not in stored.spec.model_dump()  # of others the bytes that they were
    asked_none = replace(stored, spec=stored.spec.model_copy(update={"captions": False}))
    result = evaluate(asked_none, scenes_cache)
    assert result.metrics["questions"] == 40
    assert not [name for name in result.metrics if name.startswith("caption")]
    assert {row["kind"] for row in result.predictions} == {"question"}
    samples = choose_samples(TrainingCache(scenes_cache), asked_none, "test", 100)
    assert "describe the image" not in {sample.text for sample in samples}


def test_figures_of_captions_are_those_of_the_libraries(
    stored: StoredVlm, scenes_cache: Path
) -> None:
    """Two captions an image; the best of them counts for ROUGE."""
    result = evaluate(stored, scenes_cache)
    described = [p for p in result.predictions if p["kind"] == "caption"]
    assert len(described) == result.metrics["captions"] == 8
    said = [p["prediction"] for p in described]
    first, second = zip(*(p["references"] for p in described), strict=True)
    bleu = BLEU().corpus_score(said, [first, second]).score
    assert result.metrics["caption_bleu"] == pytest.approx(bleu, rel=1e-9)
    assert bleu > 0
    assert result.details["bleu_signature"].startswith("nrefs:2|")
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name, kind in (("rouge1", "rouge1"), ("rouge2", "rouge2"), ("rouge_l", "rougeL")):
        best = [
            max(scorer.score(meant, text)[kind].fmeasure for meant in pair)
            for text, *pair in zip(said, first, second, strict=True)
        ]
        assert result.metrics[f"caption_{name}"] == pytest.approx(sum(best) / 8, rel=1e-9)


def test_figures_do_not_depend_on_the_batch_size(stored: StoredVlm, scenes_cache: Path) -> None:
    first, *others = (evaluate(stored, scenes_cache, size) for size in (64, 1, 7))
    for other in others:
        assert other.metrics == pytest.approx(first.metrics, rel=1e-6)
        without = [[{**p, "confidence": None} for p in r.predictions] for r in (other, first)]
        assert without[0] == without[1]
        # Of a sum of floats, whose order depends on the batch.
        sure, expected = ([p["confidence"] for p in r.predictions] for r in (other, first))
        assert sure == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_perplexity_is_that_of_the_answers_scored_one_by_one(
    stored: StoredVlm, scenes_cache: Path
) -> None:
    cache, special = TrainingCache(scenes_cache), stored.spec.special_ids
    model, total, count = stored.model, 0.0, 0
    for row in cache.by_medium("test", "image"):
        pixels = cache.images[row.number][None]
        size = stored.spec.image_encoder.image_size
        features = encode_images(model.image_encoder, pixels, stored.spec.normalization, size, CPU)
        for question, answer in row.questions:
            said = [*cache.ids(int(answer)).tolist(), special.eos]
            ids = [*cache.ids(int(question)).tolist(), special.bos, *said]
            with torch.inference_mode():
                text = model.decoder.get_input_embeddings()(torch.tensor([ids]))
                inputs = torch.cat([model.embed_image(features), text], dim=1)
                logits = model.decoder(inputs_embeds=inputs).logits[0, -len(said) - 1 : -1]
            chosen = logits.double().log_softmax(-1)[range(len(said)), said]
            total -= float(chosen.sum())
            count += len(said)
    expected = math.exp(total / count)
    assert evaluate(stored, scenes_cache).metrics["answer_perplexity"] == pytest.approx(
        expected, rel=1e-5
    )


def test_the_baseline_never_sees_the_image(stored: StoredVlm, scenes_cache: Path) -> None:
    cache = TrainingCache(scenes_cache)
    rows = cache.rows("train")
    answers: dict[str, list[str]] = {}
    for question, answer in zip(rows["question"], rows["answer"], strict=True):
        if question >= 0:
            answers.setdefault(cache.text(int(question)), []).append(cache.text(int(answer)))
    overall = [a for group in answers.values() for a in group]

    def guess(question: str) -> str:
        seen = answers.get(question, overall)
        return min(set(seen), key=lambda a: (-seen.count(a), a))

    asked = [
        (cache.text(int(q)), cache.text(int(a)))
        for r in cache.by_medium("test", "image")
        for q, a in r.questions
    ]
    expected = sum(guess(q) == a for q, a in asked) / len(asked)
    found = evaluate(stored, scenes_cache).metrics["question_only_exact_match"]
    assert found == pytest.approx(expected, rel=1e-12)
