"""What the evaluations of language models share: likelihood over batches, and a baseline."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from plumbline.batch import IGNORE_INDEX, Batch
from plumbline.loading.loader import Loader
from plumbline.models.device import to_device
from plumbline.models.lm_head import LanguageModel
from plumbline.tracking.progress import tracked


@torch.inference_mode()
def token_scores(
    model: LanguageModel, loader: Loader, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Score the labelled tokens of every batch.

    Yields:
        sample_index, log-probability of the label and whether it was the likeliest: [tokens] each.
    """
    model.to(device).eval()
    for batch in tracked(loader.batches(epoch=0), "scoring", loader.count(0), "batches"):
        moved: Batch = to_device(batch, device)
        labels = moved["labels"]
        # [tokens]: the sample of each labelled token
        rows = moved["sample_index"].unsqueeze(1).expand_as(labels)[labels != IGNORE_INDEX]
        parts = model.lm_head.over_labels(
            partial(model, **moved), labels, moved.get("labelled"), _score
        )
        likelihood, hits = (torch.cat(found).cpu() for found in zip(*parts, strict=True))
        yield rows.cpu(), likelihood, hits


def _score(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of labels [n] under logits [n, vocab], and whether it was the likeliest."""
    # In float32 whatever the model computes in: half precision has three digits.
    scores = logits.float().log_softmax(dim=-1)
    likelihood = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    # A split may have millions of tokens, whose sum would lose digits as float32.
    return likelihood.double(), scores.argmax(dim=1) == labels


def unigram_entropy(train: Counter[int], labels: Counter[int]) -> float:
    """Cross-entropy of tokens under their training frequencies, in nats: a model that looks away.

    A token that training never had counts as seen once.
    """
    total = sum(train.values()) + sum(1 for token in labels if token not in train)
    nll = sum(count * -np.log(max(train[token], 1) / total) for token, count in labels.items())
    return float(nll / max(1, sum(labels.values())))


def count_labels(loader: Loader, choose: Callable[[Batch], Tensor]) -> Counter[int]:
    """Count the labels, such as [batch, seq], that `choose` takes out of all batches."""
    counts: Counter[int] = Counter()
    for batch in loader.batches(epoch=0):
        values, times = np.unique(choose(batch).numpy(), return_counts=True)
        counts.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
    return counts
