"""Prompts about images, taken from a cache: for the parity check and for the bundle's self-test."""

from dataclasses import dataclass

import numpy as np

from plumbline.errors import ExportError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import StoredVlm


@dataclass(frozen=True)
class PromptSample:
    """One prompt about one image."""

    image: int
    """Number of the image in the cache."""
    text: str
    ids: list[int]
    """Token ids of the text as evaluation takes them, cut, without bos."""
    references: list[str]


def choose_samples(
    cache: TrainingCache, stored: StoredVlm, split: str, count: int
) -> list[PromptSample]:
    """Take up to `count` questions and caption prompts, evenly spread over a split.

    Raises:
        DataError: there is no such split.
        ExportError: it has neither questions nor captions.
    """
    prompt = stored.spec.caption_prompt
    prompt_ids = stored.text.encode(prompt, add_special_tokens=False).ids
    limit = stored.spec.max_text_tokens
    every: list[PromptSample] = []
    for row in cache.by_medium(split, "image"):
        for question, answer in row.questions.tolist():
            ids = cache.ids(question)[:limit].tolist()
            known = [cache.text(answer)]
            every.append(PromptSample(row.number, cache.text(question), ids, known))
        if len(row.captions):
            known = [cache.text(int(number)) for number in row.captions]
            every.append(PromptSample(row.number, prompt, prompt_ids[:limit], known))
    if not every:
        raise ExportError(f"{cache.folder}: no question and no caption in split {split!r}")
    return [every[i] for i in np.unique(np.linspace(0, len(every) - 1, count).astype(int))]
