"""Weights of classes: off, fixed, or from the training labels; no torch here."""

import math
from collections.abc import Sequence
from typing import Literal

ClassWeights = Literal["none", "balanced"] | list[float]
"""none: all classes weigh 1; balanced: by inverse frequency; figures: one per class."""


def class_weights(how: ClassWeights, counts: Sequence[int]) -> list[float] | None:
    """The weight of each class, scaled so that the mean over the training samples is 1.

    Then a weighted sum divided by a plain count of samples is the weighted mean of the training
    set, and the losses need to count nothing but samples. Balanced weights are n / (k * n_class)
    over the k classes that occur; a class without a training sample weighs 0.

    Args:
        how: none, balanced, or one figure per class.
        counts: training samples per class.

    Returns:
        One weight per class; None where all weigh the same.

    Raises:
        ValueError: no training samples, or figures that are negative, not finite, not one per
            class, or 0 for every class that occurs.

    Source: balanced as in sklearn.utils.class_weight, after King and Zeng 2001, "Logistic
    regression in rare events data".
    """
    if how == "none":
        return None
    total = sum(counts)
    if not total:
        raise ValueError("no training samples: class weights are undefined")
    if how == "balanced":
        occurring = sum(count > 0 for count in counts)
        return [total / (occurring * count) if count else 0.0 for count in counts]
    if len(how) != len(counts):
        raise ValueError(f"{len(how)} class weights for {len(counts)} classes")
    if any(not math.isfinite(weight) or weight < 0 for weight in how):
        raise ValueError(f"class weights {how}: must be finite and not negative")
    mean = math.fsum(w * n for w, n in zip(how, counts, strict=True)) / total
    if mean == 0:
        raise ValueError(f"class weights {how}: 0 for every class that occurs")
    return [weight / mean for weight in how]
