"""How figures are named and printed, in the page and in the terminal alike."""

LABELS = {
    "exact_match": "Exact match",
    "question_only_exact_match": "Exact match from the question alone",
    "token_f1": "Token F1",
    "answer_perplexity": "Answer perplexity",
    "caption_bleu": "Caption BLEU",
    "caption_rouge1": "Caption ROUGE-1",
    "caption_rouge2": "Caption ROUGE-2",
    "caption_rouge_l": "Caption ROUGE-L",
    "questions": "Questions",
    "captions": "Captioned images",
    "epochs": "Epochs",
    "optimizer_steps": "Optimiser steps",
    "micro_steps": "Micro-batches",
    "samples": "Samples seen",
    "final_train_loss": "Last training loss",
    "skipped_steps": "Steps skipped",
    "token_agreement": "Share of generated tokens that agree",
    "max_logits_difference": "Largest difference of a logit",
    "max_pixel_difference": "Largest difference of a pixel",
    "exact_match_difference": "Difference of the exact match",
    "tokens": "Tokens compared",
    "frozen_tensors_unchanged": "Frozen tensors, checked unchanged",
}

SHARES = frozenset(
    {
        "exact_match",
        "question_only_exact_match",
        "token_f1",
        "caption_rouge1",
        "caption_rouge2",
        "caption_rouge_l",
        "token_agreement",
    }
)
"""Figures from 0 to 1."""


def label(name: str) -> str:
    """Say the name of a figure in words."""
    if name in LABELS:
        return LABELS[name]
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


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
    if name in SHARES:
        return share(value)
    return f"{value:.1f}" if name.endswith("_bleu") else number(value)


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
