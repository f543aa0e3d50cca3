import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import NDArray

from plumbline.metrics.classification import top_k_accuracy
from plumbline.metrics.retrieval import (
    Ranking,
    Relation,
    class_embeddings,
    rank_positives,
    relation_of_rows,
    retrieval_report,
    zero_shot,
    zero_shot_scores,
)

Array = NDArray[np.float32]


def _random_relation(n_images: int, n_texts: int, extra: int, seed: int) -> Relation:
    """Every image and text has a positive; `extra` more pairs make it many-to-many."""
    rng = np.random.default_rng(seed)
    n_rows = max(n_images, n_texts)
    images = np.concatenate([np.arange(n_rows) % n_images, rng.integers(n_images, size=extra)])
    texts = np.concatenate([np.arange(n_rows) % n_texts, rng.integers(n_texts, size=extra)])
    return relation_of_rows(images, texts)


def _signs(rows: int, dim: int, seed: int) -> Array:
    """Rows of +-1 with a power of 4 as dimension: norms and scores are exact and often tie."""
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([-1, 1], dtype=np.float32), size=(rows, dim))


def _gaussian(rows: int, dim: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def _brute_force(scores: NDArray[np.float64], relation: Relation, k: int) -> list[float]:
    """Count over every placement of the positives in their tied group, for each row of scores."""
    hits = []
    for image, row in enumerate(scores):
        positives = set(relation.pairs[relation.pairs[:, 0] == image, 1].tolist())
        best = max(row[text] for text in positives)
        above = sum(score > best for score in row)
        group = [text for text, score in enumerate(row) if score == best]
        places = list(itertools.combinations(range(len(group)), len(positives.intersection(group))))
        hits.append(sum(above + min(place) < k for place in places) / len(places))
    return hits


def _swap(relation: Relation) -> Relation:
    return Relation(relation.n_texts, relation.n_images, relation.pairs[:, ::-1])


def _same(first: Ranking, second: Ranking) -> bool:
    return all(
        np.array_equal(getattr(getattr(first, way), field), getattr(getattr(second, way), field))
        for way in ("image_to_text", "text_to_image")
        for field in ("above", "tied", "positives")
    )


@pytest.mark.parametrize("seed", range(25))
def test_many_to_many_recall_with_planted_ties_equals_brute_force(seed: int) -> None:
    images, texts = _signs(7, 4, seed), _signs(9, 4, seed + 1000)
    relation = _random_relation(7, 9, extra=6, seed=seed)
    scores = images.astype(np.float64) @ texts.T.astype(np.float64)
    ranking = rank_positives(images, texts, relation, block=3)
    for k in (1, 2, 3, 5, 9, 20):
        expected = _brute_force(scores, relation, k)
        np.testing.assert_allclose(ranking.image_to_text.hits(k), expected, rtol=0, atol=1e-12)
        expected = _brute_force(scores.T, _swap(relation), k)
        np.testing.assert_allclose(ranking.text_to_image.hits(k), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-3])
def test_untied_recall_equals_a_full_sort_however_close_the_embeddings_lie(spread: float) -> None:
    images, texts = 1 + spread * _gaussian(150, 24, 0), 1 + spread * _gaussian(220, 24, 1)
    relation = _random_relation(150, 220, extra=200, seed=2)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    order = np.argsort(-(unit[0].astype(np.float64) @ unit[1].T.astype(np.float64)), axis=1)
    positive = np.zeros((150, 220), dtype=bool)
    positive[tuple(relation.pairs.T)] = True
    sorted_positive = np.take_along_axis(positive, order, axis=1)
    ranks = rank_positives(images, texts, relation, block=64).image_to_text
    for k in (1, 5, 10, 100):
        assert np.array_equal(ranks.hits(k), sorted_positive[:, :k].any(axis=1))


def test_one_text_per_image_is_the_diagonal_case() -> None:
    images = _gaussian(40, 8, 0)
    diagonal = relation_of_rows(np.arange(40), np.arange(40))
    report = retrieval_report(images, images, diagonal)
    assert set(report.values()) == {1.0}
    assert set(report) == {
        f"{way}_recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    }


@pytest.mark.parametrize("dim", [1, 37, 200, 768])
def test_constant_embeddings_give_chance_level(dim: int) -> None:
    # With 768 equal entries a float32 product is off by 3e-6, and by another amount at its edges.
    images, texts = np.full((50, dim), 0.3), np.full((101, dim), 0.3)
    relation = _random_relation(50, 101, extra=0, seed=0)
    ranking = rank_positives(images, texts, relation, block=7)
    assert ranking.image_to_text.tied.tolist() == [98] + [99] * 49
    for k in (1, 5, 10):
        np.testing.assert_allclose(ranking.text_to_image.hits(k), k / 50, rtol=0, atol=1e-12)


def test_a_constant_text_encoder_gives_chance_level() -> None:
    diagonal = relation_of_rows(np.arange(60), np.arange(60))
    texts = np.tile(_gaussian(1, 96, 3), (60, 1))
    report = retrieval_report(_gaussian(60, 96, 2), texts, diagonal)
    for k in (1, 5, 10):
        assert report[f"image_to_text_recall_at_{k}"] == pytest.approx(k / 60, abs=1e-12)
        # Each text ranks the images alike, so exactly k of the texts find theirs.
        assert report[f"text_to_image_recall_at_{k}"] == pytest.approx(k / 60, abs=1e-12)


def test_zero_embeddings_give_chance_level() -> None:
    diagonal = relation_of_rows(np.arange(20), np.arange(20))
    report = retrieval_report(np.zeros((20, 4)), _gaussian(20, 4, 0), diagonal, ks=(5,))
    assert report["image_to_text_recall_at_5"] == pytest.approx(0.25, abs=1e-12)


def test_planted_duplicate_embeddings_tie_wherever_they_stand() -> None:
    images, texts = _gaussian(90, 333, 0), _gaussian(133, 333, 1)
    texts[[0, 57, 132]] = texts[31]
    relation = relation_of_rows(np.arange(133) % 90, np.arange(133))
    images[31] = texts[31]
    images[42] = texts[31]
    ranking = rank_positives(images, texts, relation, block=32)
    ranks = ranking.image_to_text
    assert (ranks.above[31], ranks.tied[31], ranks.positives[31]) == (0, 3, 1)
    assert ranks.hits(1)[31] == pytest.approx(0.25, abs=1e-12)
    # Image 42 also owns text 132, the copy of text 31: one of the four tied texts is right.
    assert (ranks.above[42], ranks.tied[42], ranks.positives[42]) == (0, 3, 1)
    assert ranking.text_to_image.tied[[31, 132]].tolist() == [1, 1]


def test_scores_within_the_rounding_of_a_float32_product_are_told_apart() -> None:
    images, texts = _gaussian(200, 64, 0), _gaussian(200, 64, 1)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts[0] = images[0] + images[1]
    texts[150] = texts[0] + 8e-6 * images[0]  # some 2e-6 closer to image 0 than text 0 is
    texts[151] = texts[0] - 8e-6 * images[0]
    relation = relation_of_rows(np.arange(200), np.arange(200))
    ranks = rank_positives(images, texts, relation).image_to_text
    assert (ranks.above[0], ranks.tied[0], ranks.positives[0]) == (1, 0, 1)


@pytest.mark.parametrize("block", [1, 2, 17, 64, 1000])
def test_the_block_size_changes_nothing(block: int) -> None:
    images, texts = _gaussian(101, 48, 0), _gaussian(150, 48, 1)
    images[40:80] = images[3]
    texts[20:60] = texts[0] + 1e-7  # differs from text 0 by no more than the product's rounding
    relation = _random_relation(101, 150, extra=100, seed=2)
    whole = rank_positives(images, texts, relation, block=101)
    assert _same(rank_positives(images, texts, relation, block=block), whole)


def test_the_order_of_images_and_texts_changes_nothing() -> None:
    images, texts = _signs(40, 16, 0), _signs(60, 16, 1)
    relation = _random_relation(40, 60, extra=30, seed=2)
    rng = np.random.default_rng(3)
    new_images, new_texts = rng.permutation(40), rng.permutation(60)
    moved = relation_of_rows(
        np.argsort(new_images)[relation.pairs[:, 0]], np.argsort(new_texts)[relation.pairs[:, 1]]
    )
    before = rank_positives(images, texts, relation)
    after = rank_positives(images[new_images], texts[new_texts], moved)
    for k in (1, 5):
        assert np.array_equal(after.image_to_text.hits(k), before.image_to_text.hits(k)[new_images])
        assert np.array_equal(after.text_to_image.hits(k), before.text_to_image.hits(k)[new_texts])


def test_rows_are_compared_by_cosine() -> None:
    images, texts = _gaussian(30, 8, 0), _gaussian(30, 8, 1)
    relation = relation_of_rows(np.arange(30), np.arange(30))
    scale = np.float32(2.0) ** np.arange(-15, 15, dtype=np.float32)[:, None]
    assert _same(
        rank_positives(images, texts, relation), rank_positives(images * scale, texts, relation)
    )


def test_repeated_captions_and_images_are_right_for_each_other() -> None:
    images = np.array([0, 1, 2, 1, 3])
    captions = np.array([0, 1, 0, 1, 2])  # zero, one, zero, one, two
    relation = relation_of_rows(images, captions)
    assert relation.pairs.tolist() == [[0, 0], [1, 1], [2, 0], [3, 2]]
    digits = np.eye(3, dtype=np.float32)
    report = retrieval_report(digits[[0, 1, 0, 2]], digits, relation, ks=(1,))
    assert report == {"image_to_text_recall_at_1": 1.0, "text_to_image_recall_at_1": 1.0}


def test_each_width_scores_as_its_renormalised_prefix() -> None:
    images, texts = _gaussian(50, 16, 0), _gaussian(50, 16, 1) * 0.5 + _gaussian(50, 16, 0)
    relation = relation_of_rows(np.arange(50), np.arange(50))
    report = retrieval_report(images, texts, relation, widths=[4, 16])
    prefix = retrieval_report(images[:, :4], texts[:, :4], relation)
    assert len(report) == 12
    unit = [x[:, :4] / np.linalg.norm(x[:, :4], axis=1, keepdims=True) for x in (images, texts)]
    cosine = unit[0].astype(np.float64) @ unit[1].T
    for name, value in prefix.items():
        scores = cosine if name.startswith("image") else cosine.T
        k = int(name.rsplit("_", 1)[1])
        expected = sklearn.metrics.top_k_accuracy_score(np.arange(50), scores, k=k)
        assert value == pytest.approx(expected, abs=1e-12)
        assert report[f"{name}_width_4"] == value
        assert report[name] == retrieval_report(images, texts, relation)[name]
    assert report["image_to_text_recall_at_1"] > report["image_to_text_recall_at_1_width_4"]


def test_report_gives_intervals_on_request() -> None:
    images, texts = _gaussian(50, 8, 0), _gaussian(50, 8, 1) + _gaussian(50, 8, 0)
    relation = relation_of_rows(np.arange(50), np.arange(50))
    report = retrieval_report(images, texts, relation, ks=(1,), widths=[4], interval_seed=0)
    assert len(report) == 12
    for name in ("image_to_text_recall_at_1", "text_to_image_recall_at_1_width_4"):
        rate = report[name]
        assert rate is not None
        spread = 1.96 * np.sqrt(rate * (1 - rate) / 50)  # untied hits are 0 or 1
        ends = [report[f"{name}_{end}"] for end in ("low", "high")]
        np.testing.assert_allclose(ends, [rate - spread, rate + spread], rtol=0, atol=0.2 * spread)


def test_bad_relations_are_refused_by_name() -> None:
    pairs = np.array([[0, 0], [2, 1]])
    with pytest.raises(ValueError, match="image 1: has no positive"):
        Relation(3, 2, pairs)
    with pytest.raises(ValueError, match="text 2: has no positive"):
        Relation(2, 3, np.array([[0, 0], [1, 1]]))
    with pytest.raises(ValueError, match="image 2: not in the range of 2 images"):
        Relation(2, 2, pairs)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        Relation(2, 2, pairs.ravel())
    with pytest.raises(ValueError, match="no pairs"):
        relation_of_rows(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match=r"\(2,\) image ids, \(3,\) text ids"):
        relation_of_rows(np.arange(2), np.arange(3))


def test_bad_embeddings_are_refused_by_name() -> None:
    good = _gaussian(4, 3, 0)
    relation = relation_of_rows(np.arange(4), np.arange(4))
    broken = good.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="texts: the embedding in row 2 is not finite"):
        rank_positives(good, broken, relation)
    with pytest.raises(ValueError, match=r"images: shape \(3, 3\), expected \[4, dim\]"):
        rank_positives(good[:3], good, relation)
    with pytest.raises(ValueError, match="images have 3 dimensions, texts 2"):
        rank_positives(good, good[:, :2], relation)
    with pytest.raises(ValueError, match="width 5: embeddings have 3 dimensions"):
        retrieval_report(good, good, relation, widths=[5])
    with pytest.raises(ValueError, match="block = 0"):
        rank_positives(good, good, relation, block=0)
    with pytest.raises(ValueError, match="k = 0"):
        retrieval_report(good, good, relation, ks=(0,))


def test_class_embeddings_are_the_unit_mean_of_unit_prompts() -> None:
    prompts = np.array([[[3.0, 0.0], [0.0, 0.5]], [[-1.0, 0.0], [-7.0, 0.0]]])
    half = np.sqrt(0.5)
    expected = [[half, half], [-1.0, 0.0]]
    np.testing.assert_allclose(class_embeddings(prompts), expected, rtol=0, atol=1e-7)


def test_zero_shot_equals_the_nearest_class_by_hand() -> None:
    images, prompts = _gaussian(50, 16, 0), _gaussian(21, 16, 1).reshape(7, 3, 16)
    classes = class_embeddings(prompts)
    expected = []
    for image in images.astype(np.float64):
        cosines = []
        for group in prompts.astype(np.float64):
            mean = np.mean([prompt / np.linalg.norm(prompt) for prompt in group], axis=0)
            cosines.append(image @ mean / np.linalg.norm(mean) / np.linalg.norm(image))
        expected.append(cosines)
    scores = zero_shot_scores(images, classes)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    assert np.array_equal(zero_shot(images, classes), np.argmax(expected, axis=1))
    assert len(set(zero_shot(images, classes))) > 3


def test_zero_shot_does_not_depend_on_lengths_or_on_other_images() -> None:
    images, classes = _gaussian(20, 8, 0), class_embeddings(_gaussian(10, 8, 1).reshape(5, 2, 8))
    whole = zero_shot(images, classes)
    assert np.array_equal(zero_shot(images * 1e3, classes), whole)
    assert [int(zero_shot(images[i : i + 1], classes)[0]) for i in range(20)] == whole.tolist()


@pytest.mark.parametrize("width", [1, 37, 768])
def test_equal_class_embeddings_give_chance_level(width: int) -> None:
    classes = np.tile(_gaussian(1, width, 0), (10, 1))
    scores = zero_shot_scores(_gaussian(33, width, 1), classes)
    assert np.array_equal(scores, np.repeat(scores[:, :1], 10, axis=1))
    labels = np.arange(33) % 7  # classes 7 to 9 have no image and are wrong answers still
    assert top_k_accuracy(scores, labels, 1) == pytest.approx(0.1, abs=1e-12)


def test_zero_shot_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4\), expected \[classes, templates, width"):
        class_embeddings(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"shape \(3, 0, 4\)"):
        class_embeddings(np.ones((3, 0, 4)))
    with pytest.raises(ValueError, match="images have 4 dimensions, classes 3"):
        zero_shot(np.ones((2, 4)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="classes: the embedding in row 1 is not finite"):
        zero_shot(np.ones((2, 2)), np.array([[1.0, 0.0], [np.nan, 0.0]]))


def test_metrics_import_neither_torch_nor_the_slow_libraries() -> None:
    code = (
        "import sys, plumbline.metrics.retrieval, plumbline.metrics.text_overlap;"
        "import plumbline.metrics.rouge;"
        "import plumbline.metrics.classification, plumbline.metrics.regression;"
        "print([m for m in ('torch', 'sacrebleu', 'rouge_score', 'nltk') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.stdout.strip() == "[]"
