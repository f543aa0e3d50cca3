"""Recall@k between images and texts where several answers may be right and scores may tie.

Audio clips and other media take the place of images alike.

An image often has several captions, and one caption may fit several images. So recall is counted
over distinct images and distinct texts, a query is a hit when any of its positives is among the
first k, and targets with equal scores stand in random order: a model that maps everything to one
point gets chance level, not 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.metrics.intervals import bootstrap_interval

Floats = NDArray[np.floating]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

_CHUNK_BYTES = 2**20  # scores of single pairs are computed in pieces that stay in a core's cache
_DENSE = 64  # one pair in so many costs as much by itself as in a float64 product of all pairs


@dataclass(frozen=True, eq=False)
class Relation:
    """Which of the distinct texts are right for which of the distinct images.

    Attributes:
        n_images: number of distinct images.
        n_texts: number of distinct texts.
        pairs: [pairs, 2] int64, (image, text); repeated pairs are dropped.

    Raises:
        ValueError: there are no pairs, a pair is out of range, or an image or a text is in none.
    """

    n_images: int
    n_texts: int
    pairs: Int64s

    def __post_init__(self) -> None:
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 2:
            raise ValueError(f"pairs: shape {self.pairs.shape}, expected [pairs, 2]")
        if not self.pairs.size:
            raise ValueError("no pairs: recall is undefined")
        for column, (name, size) in enumerate((("image", self.n_images), ("text", self.n_texts))):
            members = self.pairs[:, column]
            outside = members[(members < 0) | (members >= size)]
            if outside.size:
                raise ValueError(f"{name} {outside[0]}: not in the range of {size} {name}s")
            lonely = np.flatnonzero(np.bincount(members, minlength=size) == 0)
            if lonely.size:
                raise ValueError(f"{name} {lonely[0]}: has no positive; recall is undefined for it")
        object.__setattr__(self, "pairs", np.unique(self.pairs, axis=0))


def relation_of_rows(image_ids: Int64s, text_ids: Int64s) -> Relation:
    """Build the relation of a caption table.

    Args:
        image_ids: [rows] number of each row's distinct image, from 0.
        text_ids: [rows] number of each row's distinct text, from 0.

    Raises:
        ValueError: there are no rows, the lengths differ, or a number below the largest is unused.
    """
    if image_ids.shape != text_ids.shape:
        raise ValueError(f"{image_ids.shape} image ids, {text_ids.shape} text ids: must be equal")
    n_images, n_texts = (int(ids.max(initial=-1)) + 1 for ids in (image_ids, text_ids))
    return Relation(n_images, n_texts, np.stack([image_ids, text_ids], axis=-1))


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the best positive of every query stands among all targets.

    Attributes:
        above: [queries] int64, targets that score more; none of them is a positive.
        tied: [queries] int64, targets with the same score that are no positives.
        positives: [queries] int64, positives with the same score, itself included.
    """

    above: Int64s
    tied: Int64s
    positives: Int64s

    def hits(self, k: int) -> Float64s:
        """Probability that a positive is among the first `k`, over the orders of tied targets.

        Without ties it is 0 or 1. With them, the first `k - above` places of the tied group are a
        draw without replacement, and the chance that it holds no positive is hypergeometric.

        Returns:
            [queries] float64 in [0, 1]; its mean is recall@k.

        Raises:
            ValueError: `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        group = self.tied + self.positives
        missed = np.ones(len(group))
        for place in range(min(k, int(group.max()))):
            still_missed = np.maximum(self.tied - place, 0) / np.maximum(group - place, 1)
            missed *= np.where(self.above + place < k, still_missed, 1.0)
        return 1.0 - missed


@dataclass(frozen=True, eq=False)
class Ranking:
    """The ranks of both directions: images as queries, and texts as queries."""

    image_to_text: Ranks
    text_to_image: Ranks


def rank_positives(
    images: Floats, texts: Floats, relation: Relation, *, block: int = 1024
) -> Ranking:
    """Rank the best positive of every image and of every text by cosine similarity.

    One float32 product per block of images serves both directions. Scores that its rounding could
    confuse with that of the best positive are computed again in float64, and those that even its
    rounding could confuse are tied. So equal embeddings tie wherever they stand, which a product
    alone does not give: its rounding depends on the place in the matrix. Memory grows with `block`
    times the number of texts.

    Args:
        images: [images, dim] embeddings of the distinct images; rows are normalised here.
        texts: [texts, dim] embeddings of the distinct texts.
        relation: which texts are right for which images.
        block: images per product.

    Raises:
        ValueError: shapes disagree with each other or with the relation, a row is not finite, or
            `block` is below 1.

    Source: the bound on rounding is Higham 2002, Accuracy and Stability, section 3.1.
    """
    if block < 1:
        raise ValueError(f"block = {block}: must be at least 1")
    images = _unit_rows(images, relation.n_images, "images")
    texts = _unit_rows(texts, relation.n_texts, "texts")
    dim = images.shape[1]
    if texts.shape[1] != dim:
        raise ValueError(f"images have {dim} dimensions, texts {texts.shape[1]}: must be equal")
    image_of, text_of = relation.pairs.T
    scores = _pair_scores(images, texts, image_of, text_of)
    best_of_image, positives_of_image = _best_positive(image_of, scores, relation.n_images, dim)
    best_of_text, positives_of_text = _best_positive(text_of, scores, relation.n_texts, dim)
    counts_of_image = np.zeros((2, relation.n_images), dtype=np.int64)
    counts_of_text = np.zeros((2, relation.n_texts), dtype=np.int64)
    for start in range(0, relation.n_images, block):
        rows = slice(start, start + block)
        product = images[rows] @ texts.T
        counts_of_image[:, rows] = _count(images[rows], texts, product, best_of_image[rows])
        counts_of_text += _count(texts, images[rows], product.T, best_of_text)
    return Ranking(
        Ranks(counts_of_image[0], counts_of_image[1] - positives_of_image, positives_of_image),
        Ranks(counts_of_text[0], counts_of_text[1] - positives_of_text, positives_of_text),
    )


def _unit_rows(embeddings: Floats, expected: int, name: str) -> Float32s:
    """Normalise rows in float32; a row of zeros stays, and ties with every target at score 0."""
    if embeddings.ndim != 2 or len(embeddings) != expected:
        raise ValueError(f"{name}: shape {embeddings.shape}, expected [{expected}, dim]")
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    norms: Float32s = np.linalg.norm(rows, axis=1, keepdims=True)
    broken = np.flatnonzero(~np.isfinite(norms))
    if broken.size:
        raise ValueError(f"{name}: the embedding in row {broken[0]} is not finite")
    norms[norms == 0] = 1
    return rows / norms


def _rounding(dtype: np.dtype[np.floating], dim: int) -> float:
    """Bound the rounding of a dot product of unit vectors, and of its comparison, in `dtype`."""
    return (dim + 8) * float(np.finfo(dtype).eps)


def _pair_scores(queries: Float32s, targets: Float32s, rows: Int64s, columns: Int64s) -> Float64s:
    """Score query `rows[i]` against target `columns[i]` in float64: [pairs]."""
    scores = np.empty(len(rows), dtype=np.float64)
    chunk = max(1, _CHUNK_BYTES // (8 * queries.shape[1]))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        terms = np.multiply(queries[rows[part]], targets[columns[part]], dtype=np.float64)
        scores[part] = terms.sum(axis=1)
    return scores


def _best_positive(
    query_of: Int64s, scores: Float64s, n_queries: int, dim: int
) -> tuple[Float64s, Int64s]:
    """Find the highest score among each query's pairs, and how many of its pairs have it."""
    best = np.full(n_queries, -np.inf)
    np.maximum.at(best, query_of, scores)
    equal = scores >= best[query_of] - _rounding(scores.dtype, dim)
    return best, np.bincount(query_of[equal], minlength=n_queries)


def _count(queries: Float32s, targets: Float32s, product: Floats, best: Float64s) -> Int64s:
    """Count the targets above each query's best positive, and those equal to it: [2, queries]."""
    dim = queries.shape[1]
    slack = _rounding(product.dtype, dim)
    above = product > (best + slack).astype(product.dtype)[:, None]
    near = (product >= (best - slack).astype(product.dtype)[:, None]) ^ above
    n_above = np.count_nonzero(above, axis=1)
    if product.dtype == np.float64:
        return np.stack([n_above, np.count_nonzero(near, axis=1)])
    if np.count_nonzero(near) * _DENSE > near.size:  # embeddings that have all but collapsed
        return _count(queries, targets, np.matmul(queries, targets.T, dtype=np.float64), best)
    rows, columns = np.nonzero(near)
    lead = _pair_scores(queries, targets, rows, columns) - best[rows]
    tie = _rounding(lead.dtype, dim)
    n_above += np.bincount(rows[lead > tie], minlength=len(best))
    return np.stack([n_above, np.bincount(rows[np.abs(lead) <= tie], minlength=len(best))])


def retrieval_report(
    images: Floats,
    texts: Floats,
    relation: Relation,
    *,
    ks: Sequence[int] = (1, 5, 10),
    widths: Sequence[int] = (),
    interval_seed: int | None = None,
) -> dict[str, float | None]:
    """Recall@k of both directions under flat metric names.

    Names are `image_to_text_recall_at_1` and `text_to_image_recall_at_1` for the full width, with
    `_width_32` behind them for the prefix of 32 dimensions, and `_low` and `_high` behind those
    for the ends of the 95 % interval. Where every query has so many positives, or there are so few
    targets, that any first k would hold one, as where all captions are equal, it is None.

    Args:
        images: [images, dim] embeddings of the distinct images.
        texts: [texts, dim] embeddings of the distinct texts.
        relation: which texts are right for which images.
        ks: how many first places count.
        widths: Matryoshka widths; the prefixes are normalised again.
        interval_seed: seed of the bootstrap; None leaves the intervals out.

    Raises:
        ValueError: a width is not in 1..dim, a `k` is below 1, or as in `rank_positives`.

    Source: prefixes as in Kusupati et al. 2022, arXiv:2205.13147.
    """
    full = images.shape[-1]
    report: dict[str, float | None] = {}
    needed = {
        "image_to_text": _certain_k(relation.pairs[:, 0], relation.n_texts),
        "text_to_image": _certain_k(relation.pairs[:, 1], relation.n_images),
    }
    for width in dict.fromkeys([full, *widths]):
        if not 1 <= width <= full:
            raise ValueError(f"width {width}: embeddings have {full} dimensions")
        ranking = rank_positives(images[:, :width], texts[:, :width], relation)
        suffix = "" if width == full else f"_width_{width}"
        for direction in ("image_to_text", "text_to_image"):
            ranks: Ranks = getattr(ranking, direction)
            for k in ks:
                name = f"{direction}_recall_at_{k}{suffix}"
                hits = ranks.hits(k)
                if k >= needed[direction]:
                    report[name] = None
                    continue
                report[name] = float(hits.mean())
                if interval_seed is not None:
                    low, high = bootstrap_interval(hits, interval_seed)
                    report |= {f"{name}_low": low, f"{name}_high": high}
    return report


def _certain_k(query_of_pair: Int64s, targets: int) -> int:
    """From which k on a positive of every query is among any first k of the targets."""
    return targets - int(np.bincount(query_of_pair).min()) + 1


def class_embeddings(text_embeddings: Floats) -> Float32s:
    """Embed each class as the mean over its prompts, for zero-shot classification.

    Args:
        text_embeddings: [classes, templates, width]: the name of each class in each template, of
            any length; each prompt weighs the same.

    Returns:
        [classes, width] of unit length.

    Raises:
        ValueError: another number of dimensions, no template, or a row that is not finite.

    Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.4.
    """
    if text_embeddings.ndim != 3 or not text_embeddings.shape[1]:
        shape = text_embeddings.shape
        raise ValueError(f"texts: shape {shape}, expected [classes, templates, width]")
    classes, templates, width = text_embeddings.shape
    prompts = _unit_rows(text_embeddings.reshape(-1, width), classes * templates, "texts")
    return _unit_rows(prompts.reshape(classes, templates, width).mean(axis=1), classes, "texts")


def zero_shot_scores(image_embeddings: Floats, classes: Floats) -> Float64s:
    """Score every image against every class by cosine similarity.

    Equal class embeddings give equal scores to the bit, so that figures which count ties fairly
    (`plumbline.metrics.classification.top_k_hits`) put a collapsed text encoder at chance level.

    Args:
        image_embeddings: [images, width], of any length.
        classes: [classes, width] from `class_embeddings`.

    Returns:
        [images, classes] float64 in -1..1.

    Raises:
        ValueError: the widths differ, or a row is not finite.
    """
    if image_embeddings.shape[-1] != classes.shape[-1]:
        raise ValueError(
            f"images have {image_embeddings.shape[-1]} dimensions, classes {classes.shape[-1]}"
        )
    images = _unit_rows(image_embeddings, len(image_embeddings), "images")
    distinct, which = np.unique(
        _unit_rows(classes, len(classes), "classes"), axis=0, return_inverse=True
    )
    scores = images.astype(np.float64) @ distinct.T.astype(np.float64)
    return np.clip(scores, -1, 1)[:, which]


def zero_shot(image_embeddings: Floats, classes: Floats) -> Int64s:
    """Predict the class whose embedding lies nearest: [images] int64, the first among equals.

    Arguments and errors as in `zero_shot_scores`.
    """
    predictions: Int64s = zero_shot_scores(image_embeddings, classes).argmax(axis=1)
    return predictions
