"""Rows of several whole samples, for the models that take them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from plumbline.batch import IGNORE_INDEX, Batch, Sample, labelled_places, sample_numbers
from plumbline.kinds.language.rows import Ids
from plumbline.loading.packing import Layout
from plumbline.models.lm_head import LanguageModel
from plumbline.models.packed import Packing, find_packing

TRIED = (4, 2, 2)
"""Lengths of the samples that packing is tried with: the first row is full, the second shared."""

Collate = Callable[[Sequence[Sample]], Batch]


class Pack(Protocol):
    """Makes batches of packed rows."""

    def __call__(self, samples: Sequence[Sample], *, one_row: bool) -> Batch:
        """Lay samples out in one row, or in rows no longer than the longest of them."""


def packed_collate(
    model: LanguageModel,
    net: object,
    candidates: Sequence[Packing],
    *,
    longest: int,
    padded: Collate,
    packed: Pack,
    tried: Sequence[Sample],
) -> Collate | None:
    """Find out how a model takes packed rows, and make the batches that it takes.

    Args:
        model: is told how its rows are packed.
        net: what it has of transformers.
        candidates: see `find_packing`.
        longest: see `find_packing`.
        padded: makes batches of rows with padding.
        packed: makes batches of packed rows.
        tried: samples of `TRIED` lengths.

    Returns:
        `packed` as the model takes it; None where it takes padded rows alone.
    """

    def run(packing: Packing) -> tuple[Tensor, Tensor, Tensor]:
        model.packing = packing
        batch = packed(tried, one_row=packing.one_row)
        # As if all samples of a row were one.
        joined = batch | {"spans": batch["spans"].sum(dim=2, keepdim=True)}
        alone, together, seen = (_logits(model, one) for one in (padded(tried), batch, joined))
        return alone, together, seen

    model.packing = find_packing(net, candidates, longest, run)
    return partial(packed, one_row=model.packing.one_row) if model.packing else None


def _logits(model: LanguageModel, batch: Batch) -> Tensor:
    """[labelled, vocab], sample by sample: the samples tried are laid out in their order."""
    logits: Tensor = model(**batch)
    return logits[batch["labels"] != IGNORE_INDEX]


def join_rows(
    samples: Sequence[Sample], ids: Sequence[Ids], labels: Sequence[Ids], *, pad: int, one_row: bool
) -> Batch:
    """Lay samples out one behind the other.

    Args:
        samples: what ids and labels are of.
        ids: [length] of each sample.
        labels: [length] of each sample, `IGNORE_INDEX` where none counts.
        pad: id of padding.
        one_row: whether a row may be as long as a batch.

    Returns:
        input_ids, labels, position_ids [rows, seq]; spans, see `Layout.spans`; sample_index
        [samples].
    """
    lengths = [len(each) for each in ids]
    layout = Layout.of(np.array(lengths)[:, None], one_row=one_row)  # [samples, 1 stream]
    joined = layout.join(labels, IGNORE_INDEX)
    return {
        "input_ids": layout.join(ids, pad),
        "labels": joined,
        **labelled_places(joined),
        "position_ids": layout.positions(lengths),
        "spans": layout.spans(lengths, lengths),  # a token sees its own sample alone
        "sample_index": torch.from_numpy(sample_numbers(samples)),
    }


def tried_ids(vocab_size: int, more: int = 0) -> list[Ids]:
    """Ids of samples, [length] each, of `TRIED` lengths and so many tokens more: all words."""
    # Special tokens come first in a vocabulary, and words last.
    ends = np.cumsum(TRIED) + more * np.arange(1, len(TRIED) + 1)
    ids = vocab_size - 1 - np.arange(ends[-1]) % (vocab_size // 2)
    return np.split(ids, ends[:-1])
