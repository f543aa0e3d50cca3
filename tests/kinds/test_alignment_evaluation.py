from pathlib import Path

import numpy as np
import pytest
import torch

from plumbline.errors import DataError
from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.kinds.alignment.evaluate import evaluate
from plumbline.kinds.alignment.model import load_dual_encoder
from plumbline.kinds.alignment.settings import AlignmentEvaluationConfig
from plumbline.loading.cache_reader import TrainingCache

CPU = torch.device("cpu")


def measure(folder: Path, cache: TrainingCache, config: AlignmentEvaluationConfig) -> Evaluation:
    return evaluate(EvaluationJob(load_dual_encoder(folder), cache, config, CPU))


def test_recall_counts_every_caption_of_an_image_by_brute_force(
    scenes_cache: Path, aligned_folder: Path
) -> None:
    cache = TrainingCache(scenes_cache)
    config = AlignmentEvaluationConfig(split="test", ks=[1, 3])
    result = measure(aligned_folder, cache, config)
    scores = (
        result.arrays["media_embeddings"].astype(np.float64) @ result.arrays["text_embeddings"].T
    )
    captions = {row.number: set(row.captions.tolist()) for row in cache.by_medium("test", "image")}
    hits = {1: 0, 3: 0}
    for image, score in zip(result.arrays["media"], scores, strict=True):
        found = result.arrays["texts"][np.argsort(-score)]
        for k in hits:
            hits[k] += bool(set(found[:k].tolist()) & captions[int(image)])
    for k, count in hits.items():
        expected = count / len(result.arrays["media"])
        found = result.metrics[f"image_to_text_recall_at_{k}"]
        assert found == pytest.approx(expected, abs=1e-12)
    assert result.metrics["images"] == len(captions)


def test_alignment_figures_do_not_depend_on_the_batch_size(
    scenes_cache: Path, aligned_folder: Path
) -> None:
    cache = TrainingCache(scenes_cache)
    results = [
        measure(aligned_folder, cache, AlignmentEvaluationConfig(batch_size=size))
        for size in (1, 7, 64)
    ]
    for result in results[1:]:
        assert result.metrics == pytest.approx(results[0].metrics, abs=1e-6)
        for side in ("media", "texts"):
            np.testing.assert_array_equal(result.arrays[side], results[0].arrays[side])
        for side in ("media_embeddings", "text_embeddings"):
            np.testing.assert_allclose(result.arrays[side], results[0].arrays[side], atol=1e-6)
            lengths = np.linalg.norm(result.arrays[side], axis=1)
            np.testing.assert_allclose(lengths, 1.0, atol=1e-6)


def test_examples_mark_the_right_captions(scenes_cache: Path, aligned_folder: Path) -> None:
    cache = TrainingCache(scenes_cache)
    config = AlignmentEvaluationConfig(examples=3)
    result = measure(aligned_folder, cache, config)
    assert result.examples is not None
    assert len(result.examples) == 3
    captions = {
        r.number: {cache.text(int(c)) for c in r.captions} for r in cache.by_medium("test", "image")
    }
    cosines = result.arrays["media_embeddings"] @ result.arrays["text_embeddings"].T
    for example, row in zip(result.examples, np.sort(cosines, axis=1)[:, ::-1], strict=False):
        scores = [found["score"] for found in example["found"]]
        np.testing.assert_allclose(scores, row[:5], rtol=0, atol=6e-5)  # four digits
        for found in example["found"]:
            assert found["right"] == (found["text"] in captions[example["medium"]])


def test_a_split_without_captions_is_refused(
    scenes_cache: Path, aligned_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TrainingCache(scenes_cache)
    monkeypatch.setattr(TrainingCache, "by_medium", lambda self, split, column: [])
    with pytest.raises(DataError, match="no image with a caption in split 'test'"):
        measure(aligned_folder, cache, AlignmentEvaluationConfig())
