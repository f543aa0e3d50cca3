"""How figures are named and printed, in the page and in the terminal alike."""

from typing import Literal

from plumbline.metrics.known import split_part

METRICS = {
    "accuracy": "Accuracy",
    "top_5_accuracy": "Top-5 accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "expected_calibration_error": "Expected calibration error",
    "log_loss": "Log loss",
    "zero_shot_accuracy": "Zero-shot accuracy",
    "loss": "Loss",
    "perplexity": "Perplexity",
    "token_accuracy": "Token accuracy",
    "unigram_loss": "Loss of token frequencies alone",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "exact_match": "Exact match",
    "question_only_exact_match": "Exact match from the question alone",
    "token_f1": "Token F1",
    "answer_perplexity": "Answer perplexity",
    "caption_bleu": "Caption BLEU",
    "caption_rouge1": "Caption ROUGE-1",
    "caption_rouge2": "Caption ROUGE-2",
    "caption_rouge_l": "Caption ROUGE-L",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "mae": "Mean absolute error",
    "mse": "Mean squared error",
    "questions": "Questions",
    "captions": "Captioned images",
    "samples": "Samples",
    "pairs": "Pairs",
    "tokens": "Tokens",
}
"""Figures of evaluations. That of a part has the part's name in front: `digit/accuracy`."""

TRAINING = {
    "epochs": "Epochs",
    "optimizer_steps": "Optimiser steps",
    "micro_steps": "Micro-batches",
    "samples": "Samples seen",
    "final_train_loss": "Last training loss",
    "skipped_steps": "Steps skipped",
    "frozen_tensors_unchanged": "Frozen tensors, checked unchanged",
}

PARITY = {
    "samples": "Samples compared",
    "tokens": "Tokens compared",
    "classes": "Classes compared",
    "values": "Values compared",
    "token_agreement": "Share of tokens that agree",
    "class_agreement": "Share of classes that agree",
    "value_agreement": "Share of values that agree",
    "decision_agreement": "Share of decisions that agree",
    "max_input_difference": "Largest difference of an input",
    "max_logits_difference": "Largest difference of a logit",
    "max_pixel_difference": "Largest difference of a pixel",
    "metric_difference": "Difference of the metric",
    "exact_match_difference": "Difference of the exact match",
}

SHARES = frozenset(
    {
        "accuracy",
        "top_5_accuracy",
        "balanced_accuracy",
        "macro_f1",
        "expected_calibration_error",
        "zero_shot_accuracy",
        "token_accuracy",
        "precision",
        "recall",
        "f1",
        "rouge1",
        "rouge2",
        "rouge_l",
        "exact_match",
        "question_only_exact_match",
        "token_f1",
        "caption_rouge1",
        "caption_rouge2",
        "caption_rouge_l",
        "r2",
        "pearson",
        "confidence",
    }
)
"""Figures from 0 to 1, or at most 1."""

_LABELS = {
    "metric": {**TRAINING, **METRICS},
    "training": TRAINING,
    "parity": PARITY,
}


def label(name: str, of: Literal["metric", "training", "parity"] = "metric") -> str:
    """Say the name of a figure in words."""
    if name in _LABELS[of]:
        return _LABELS[of][name]
    if of == "parity" and name.endswith("_difference"):
        return f"Difference: {label(name.removesuffix('_difference'))}"
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def full_label(name: str) -> str:
    """Say the name of a figure in words, with its part behind it.

    >>> full_label("digit/macro_f1"), full_label("perplexity")
    ('Macro F1, digit', 'Perplexity')
    """
    part, rest = split_part(name)
    return f"{label(rest)}, {part}" if part else label(rest)


def share(value: float) -> str:
    """Print a figure between 0 and 1."""
    return f"{value:.3f}"


def number(value: float) -> str:
    """Print a count whole, anything else to four significant digits.

    >>> number(12345.0), number(3.304356), number(0.00000123)
    ('12,345', '3.304', '1.23e-06')
    """
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.1f}"
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.4g}"


def figure(name: str, value: float) -> str:
    """Print the figure that has this name."""
    name = split_part(name)[1]
    if name in SHARES or name.endswith("_agreement"):
        return share(value)
    return f"{value:.1f}" if name in ("bleu", "caption_bleu") else number(value)


def percent(part: float, whole: float) -> str:
    """Print a part as a share of the whole; what is not nothing is never shown as 0 %.

    >>> percent(30, 2700), percent(1, 100000), percent(0, 0)
    ('1.1 %', '< 0.1 %', '0 %')
    """
    if not part or not whole:
        return "0 %"
    value = 100 * part / whole
    return "< 0.1 %" if value < 0.1 else f"{value:.2g} %" if value < 10 else f"{value:.0f} %"


def size(count: int) -> str:
    """Print a number of bytes.

    >>> size(900), size(15360), size(5_655_330)
    ('900 B', '15.4 kB', '5.66 MB')
    """
    if count < 1000:
        return f"{count} B"
    value, unit = count / 1000, "kB"
    for larger in ("MB", "GB"):
        if value >= 999.5:
            value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"
