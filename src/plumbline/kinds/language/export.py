"""What the bundles of language models share."""

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import ExportError
from plumbline.export.parity import larger
from plumbline.export.plan import (
    ConfigT,
    GraphPlan,
    ModelT,
    SpecT,
    max_difference,
    spread,
)
from plumbline.export.runtime.text import TextReader

TEXT_CHARS = 300
"""Of a text of the dataset: what is compared of its ids, and what the self-test stores."""

CHAT_RUNTIME = (
    "plumbline/kinds/language/chat_runtime.py",
    "plumbline/data/turns.py",
    "plumbline/tokenization/chat_template.py",
    "plumbline/tokenization/chat_tokens.py",
)
"""What a model of conversations answers with beside what its kind does."""

Floats = NDArray[np.float32]


class LanguagePlan(GraphPlan[ConfigT, ModelT, SpecT]):
    """What both kinds of language model share."""

    packages: tuple[str, ...] = ("tokenizers",)

    def _texts(self, column: str, count: int) -> list[str]:
        """Beginnings of texts of the split.

        Raises:
            ExportError: there is none.
        """
        numbers = self.cache.rows(self.config.split)[column]
        numbers = numbers[numbers >= 0]  # -1: the row has no such text
        if not len(numbers):
            raise ExportError(f"{self.cache.folder}: no {column} in split {self.config.split!r}")
        texts = [self.cache.text(int(numbers[place])) for place in spread(len(numbers), count)]
        cut = [text[:TEXT_CHARS].strip() for text in texts]
        # Where all are blank, any text can be compared and asked.
        return [text for text in cut if text] or ["a"]

    def _text_difference(self, reader: TextReader, column: str) -> float:
        """Of the script's ids from the tokenizer's own."""
        worst = 0.0
        for text in self._texts(column, self.config.parity_samples):
            known = self.stored.text.encode(text, add_special_tokens=False).ids
            # Of another length they differ by infinity.
            pair = [np.array(ids, np.int64) for ids in (known, reader.encode(text))]
            worst = larger(worst, max_difference(pair[:1], pair[1:]))
        return worst
