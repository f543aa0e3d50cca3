"""Which tokens of the first samples carry loss, as text: what the model is taught to say."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypedDict

from tokenizers import Tokenizer
from torch import Tensor

from plumbline.batch import IGNORE_INDEX, Batch
from plumbline.errors import ConfigError
from plumbline.inspection.result import CLOSE, OPEN, Report
from plumbline.inspection.target import Target

ROWS = 4
"""Shown where no number is asked for."""


class Row(TypedDict):
    """One row of a batch as text; with packed rows it holds several samples."""

    given: str
    """What the model is given and not taught to say; "" where `text` holds it."""
    text: str
    """With `OPEN` and `CLOSE` around what carries loss."""
    supervised: list[str]
    """What carries loss: the texts between the marks."""
    tokens: int
    """That carry loss."""
    of: int
    """All tokens of `text`."""


def inspect(target: Target, options: argparse.Namespace) -> Report:
    """Decode the first batch that training sees, and mark the tokens that carry loss.

    Raises:
        ConfigError: the training learns no tokens.
    """
    batch = target.batch(options.samples or ROWS)
    tokenizer = target.job.tokenizer
    labels = batch.get("labels")
    if tokenizer is None or not isinstance(labels, Tensor) or "input_ids" not in batch:
        raise ConfigError(
            f"{target.key}: learns no tokens, so none carries loss; inspect {target.key} "
            "activations shows what its samples are"
        )
    rows = list(_rows(batch, tokenizer))
    lines = []
    for number, row in enumerate(rows):
        lines.append(f"row {number}: {row['tokens']} of {row['of']} tokens carry loss")
        lines += [f"  given  {row['given']}"] if row["given"] else []
        lines.append(f"  {row['text']}")
    return Report("\n".join(lines), {"rows": rows})


def _rows(batch: Batch, tokenizer: Tokenizer) -> Iterator[Row]:
    ids, labels = batch["input_ids"], batch["labels"]  # [rows, seq], of targets another seq
    ahead = _ahead(ids, labels)
    for row in range(len(labels)):
        marked = labels[row].tolist()
        given = ""
        if "decoder_input_ids" in batch:  # the labels are a text of their own
            given = tokenizer.decode(_without_end(ids[row].tolist()), skip_special_tokens=False)
            tokens = [token for token in marked if token != IGNORE_INDEX]
            taught = [True] * len(tokens)
        else:
            shown, carries = ids[row].tolist(), [label != IGNORE_INDEX for label in marked]
            if ahead:  # position i says token i + 1, so the first token is never said
                shown, carries = [*shown, marked[-1]], [False, *carries]
                marked = [IGNORE_INDEX, *marked]
            said = zip(shown, marked, strict=True)
            # What is hidden is shown as what the model has to say there.
            whole = [label if label != IGNORE_INDEX else token for token, label in said]
            end = max((at for at, one in enumerate(carries) if one), default=-1) + 1
            tokens = _without_end([token for token in whole if token != IGNORE_INDEX], end)
            taught = carries[: len(tokens)]
        yield _describe(tokens, taught, given, tokenizer)


def _ahead(ids: Tensor, labels: Tensor) -> bool:
    """Whether the label of a position is the token of the next one."""
    if ids.shape != labels.shape:
        return False
    # Only between two labels: behind the last one of a row its token is not among the ids.
    known = (labels[:, :-1] != IGNORE_INDEX) & (labels[:, 1:] != IGNORE_INDEX)
    following = bool((labels[:, :-1][known] == ids[:, 1:][known]).all())
    same = bool((labels[labels != IGNORE_INDEX] == ids[labels != IGNORE_INDEX]).all())
    return bool(known.any()) and following and not same


def _without_end(tokens: list[int], least: int = 0) -> list[int]:
    """Without the padding at the end: the last token, where it repeats; at least `least` stay."""
    end = len(tokens)
    while end > max(least, 1) and tokens[end - 1] == tokens[end - 2]:
        end -= 1
    return tokens[:end]


def _describe(
    tokens: Sequence[int], taught: Sequence[bool], given: str, tokenizer: Tokenizer
) -> Row:
    text, before, supervised, at = "", "", [], 0
    for carries, group in groupby(taught):
        at += len(list(group))
        # By the whole text so far: a token alone may lose the blank in front of it.
        after = tokenizer.decode(list(tokens[:at]), skip_special_tokens=False)
        piece, before = after[len(before) :], after
        supervised += [piece] if carries else []
        text += f"{OPEN}{piece}{CLOSE}" if carries else piece
    return Row(given=given, text=text, supervised=supervised, tokens=sum(taught), of=len(tokens))
