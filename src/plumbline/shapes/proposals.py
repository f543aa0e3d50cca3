"""What the data says of image size, context length, batch size and class weights, with the reason.

One rule each, for the report and for `plumbline import` alike. Nothing here asks the machine: an
import hands down what its machine bears.
"""

from plumbline.shapes.distributed import LabelSpread, Proposed
from plumbline.shapes.spread import Spread, share

PATCH = 16
"""Pixels of a side of the patches of vision transformers here."""
SIDES = (32, 48, 64, 96, 128, 160, 224)
"""Sides of square images that models here are given, in pixels: multiples of `PATCH`."""
TOKENS_STEP = 32
MAX_BATCH = 128
STEPS_AN_EPOCH = 4
"""At least."""
IMBALANCED = 10
"""Rows of the most frequent class for each of the rarest, from which on classes are weighed.

Source: Buda, Maki and Mazurowski 2018, arXiv:1710.05381: what it costs shows from ratios of ten on.
"""
_WORTH = 1.5
"""Times the 99th percentile; the longest text is not cut where it is no longer than so."""


def image_side(typical: float, most: int = SIDES[-1]) -> int:
    """The side of square images, in pixels: no larger than typical ones, and than `most`."""
    return max((side for side in SIDES if side <= min(most, typical)), default=SIDES[0])


def propose_image_size(short_side: Spread) -> Proposed:
    """The size of cached images, by the shorter sides of all."""
    side, median = image_side(short_side["p50"]), short_side["p50"]
    shown = f"of a typical image the shorter side has {median:,.0f} pixels"
    if short_side["p5"] < short_side["p95"]:
        shown += f" (of nine in ten {short_side['p5']:,.0f} to {short_side['p95']:,.0f})"
    if side > median:
        why = "the smallest size that models here take"
    elif side == SIDES[-1] < median:
        why = "what most checkpoints were trained on; more costs time with its square"
    else:
        why = f"the largest usual size that enlarges none of that, in patches of {PATCH}"
    return {
        "what": "image size",
        "settings": "tokenize.image_size",
        "value": [side, side],
        "reason": f"{shown}; {side} is {why}",
    }


def context_tokens(usual: float, longest: float, most: int | None = None) -> int:
    """Tokens to make room for: of the longest text, or of the usual one where it is far longer.

    Args:
        usual: the 99th percentile.
        longest: of all.
        most: not more than so; None: no bound.
    """
    wanted = longest if longest <= _WORTH * usual else usual
    whole = TOKENS_STEP * -(-int(-(-wanted // 1)) // TOKENS_STEP)
    return whole if most is None else min(most, whole)


def propose_context(tokens: Spread, frame: int, of: str) -> Proposed:
    """Tokens to make room for, by those that the rows of train have and `frame` around them."""
    context = context_tokens(tokens["p99"] + frame, tokens["max"] + frame)
    cut = "" if context >= tokens["max"] + frame else "; what is longer is cut or left out"
    return {
        "what": f"context length of {of}",
        "settings": "block_size, max_text_tokens or max_tokens of the task",
        "value": context,
        "reason": f"99 of 100 have at most {tokens['p99']:,} tokens, the longest "
        f"{tokens['max']:,}; {context:,} is a multiple of {TOKENS_STEP} with room for what "
        f"frames them{cut}",
    }


def batch_size(rows: int) -> int:
    """Samples of a step: a power of two, with some steps an epoch at least."""
    return min(MAX_BATCH, 1 << (max(2, rows // STEPS_AN_EPOCH).bit_length() - 1))


def propose_batch_size(rows: int) -> Proposed:
    """Samples of a step, by the rows of train."""
    size = batch_size(rows)
    return {
        "what": "batch size",
        "settings": "train.loader.batch_size",
        "value": size,
        "reason": f"of {rows:,} training rows a power of two that leaves {STEPS_AN_EPOCH} steps an "
        f"epoch, at most {MAX_BATCH}; a device that holds less takes it in pieces "
        "(trainer.micro_batch_size)",
    }


def class_weights(imbalance: float) -> str:
    """How classes weigh in the loss, by the rows of the most frequent for each of the rarest."""
    return "balanced" if imbalance >= IMBALANCED else "none"


def propose_class_weights(labels: LabelSpread, part: str) -> Proposed:
    """How the classes of a part weigh in the loss."""
    (most, rows), (least, fewest) = labels["most"], labels["least"]
    how = class_weights(labels["imbalance"])
    why = (
        f"{most!r} has {share(rows, labels['rows'])} of the training rows; look at macro F1 and "
        "balanced accuracy, which accuracy hides"
        if how == "balanced"
        else f"below {IMBALANCED} times weights gain little"
    )
    return {
        "what": f"class weights{f' of {part}' if part else ''}",
        "settings": "train.task.class_weights",
        "value": how,
        "reason": f"{most!r} has {rows:,} training rows, {least!r} {fewest:,}, "
        f"{labels['imbalance']:,.4g} times fewer; {why}",
    }
