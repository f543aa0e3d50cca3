import math
from pathlib import Path

import pytest
import torch

from plumbline.evaluation.result import Evaluation
from plumbline.files import write_digests
from plumbline.kinds.vlm.evaluate import VlmEvaluator
from plumbline.kinds.vlm.features import encode_images
from plumbline.kinds.vlm.model import StoredVlm
from plumbline.kinds.vlm.settings import VlmConfig, VlmEvaluationConfig, VlmTaskConfig
from plumbline.kinds.vlm.train import build
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.stored import load_model, save_model
from plumbline.training.task import JobContext

CPU = torch.device("cpu")


@pytest.fixture
def stored(
    scenes_cache: Path, aligned_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StoredVlm:
    monkeypatch.chdir(tmp_path)
    decoder = DecoderConfig(width=16, layers=1, heads=2, kv_heads=2, mlp_width=32)
    config = VlmConfig(projector_width=16, decoder=decoder)
    context = JobContext(cache=TrainingCache(scenes_cache), seed=0, start=aligned_folder)
    job = build(context, config, VlmTaskConfig())
    folder = tmp_path / "vlm"
    folder.mkdir()
    save_model(folder, job.model, job.spec, job.tokenizer)
    write_digests(folder)
    return load_model(folder)


def evaluate(stored: StoredVlm, cache: Path, batch_size: int = 256) -> Evaluation:
    config = VlmEvaluationConfig(batch_size=batch_size, max_new_tokens=6)
    return VlmEvaluator(stored, TrainingCache(cache), config, CPU).evaluate()


def test_figures_are_those_of_the_predictions(stored: StoredVlm, scenes_cache: Path) -> None:
    result = evaluate(stored, scenes_cache)
    asked = [p for p in result.predictions if p["kind"] == "question"]
    described = [p for p in result.predictions if p["kind"] == "caption"]
    assert (len(asked), len(described)) == (40, 8)
    assert result.metrics["exact_match"] == sum(p["correct"] for p in asked) / len(asked)
    assert (result.metrics["questions"], result.metrics["captions"]) == (40, 8)
    assert sum(row["count"] for row in result.tables["by_prompt"]) == len(asked)
    assert result.details["bleu_signature"] is not None


def test_figures_do_not_depend_on_the_batch_size(stored: StoredVlm, scenes_cache: Path) -> None:
    first, *others = (evaluate(stored, scenes_cache, size) for size in (64, 1, 7))
    for other in others:
        assert other.metrics == pytest.approx(first.metrics, rel=1e-6)
        assert other.predictions == first.predictions


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
    assert evaluate(stored, scenes_cache).metrics["question_only_exact_match"] == expected
