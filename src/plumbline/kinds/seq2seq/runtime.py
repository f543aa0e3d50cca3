"""A text into another: greedily or by beam search."""

from collections.abc import Callable, Mapping
from typing import TypedDict

import numpy as np

from plumbline.export.runtime.contract import (
    COUNT,
    ID,
    SPECIAL_IDS,
    Contract,
    Fields,
    SpecialIds,
)
from plumbline.export.runtime.files import Array, Files, Floats, Graph
from plumbline.export.runtime.inputs import (
    Arrays,
    Request,
    check_range,
    ids_and_mask,
    number_in,
    text_in,
    whole_in,
)
from plumbline.export.runtime.model import Task
from plumbline.export.runtime.scores import Float64s, log_softmax
from plumbline.export.runtime.text import TextReader

MAX_BEAMS = 64

NextScores = Callable[[list[list[int]]], Float64s]
"""Targets so far, of equal length -> log-probabilities [targets, vocab] of their next tokens."""


class Text(TypedDict):
    """Section `text` of the contract: how a source becomes ids."""

    special_ids: SpecialIds
    max_source_tokens: int


class Search(TypedDict):
    """Section `decoding` of the contract: how targets are looked for, unless a request says."""

    beams: int
    length_penalty: float
    max_new_tokens: int


class Rules(TypedDict):
    """Section `generation` of the contract: what a target begins and ends with, and never holds."""

    start: int
    eos: int
    suppressed: list[int]
    max_positions: int


class Seq2SeqContract(Contract):
    """What the task reads."""

    text: Text
    decoding: Search
    generation: Rules


class Seq2SeqTask(Task[Seq2SeqContract]):
    """Writes the target of a source."""

    name = "seq2seq"

    required = ("source",)
    parts = frozenset({"encoder", "decoder"})

    @staticmethod
    def shape(contract: Mapping[str, object]) -> Fields:
        """See `Task`."""
        return {
            "text": {"special_ids": SPECIAL_IDS, "max_source_tokens": COUNT},
            "decoding": {"beams": COUNT, "length_penalty": float, "max_new_tokens": COUNT},
            "generation": {"start": ID, "eos": ID, "suppressed": [ID], "max_positions": COUNT},
        }

    def __init__(self, contract: Seq2SeqContract, files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.fields = self.fields_of(contract)
        self.text = TextReader(files, contract["limits"]["max_text_chars"])

    @staticmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """Name of each field of a request -> its type."""
        return {
            "source": "text",
            "beams": "integer",
            "length_penalty": "number",
            "max_new_tokens": "integer",
        }

    def inputs(self, request: Request) -> Arrays:
        """input_ids and attention_mask [1, seq] of the source, cut and closed by eos."""
        text = self.contract["text"]
        ids = self._source(request)
        return ids_and_mask([*ids[: text["max_source_tokens"]], text["special_ids"]["eos"]])

    def _source(self, request: Request) -> list[int]:
        return self.text.encode(self.text.check("source", text_in(request, "source", "")))

    def cut_tokens(self, request: Request) -> int:
        """See `Task`: of a source that is too long, its end."""
        longest = self.contract["text"]["max_source_tokens"]
        return max(0, len(self._source(request)) - longest)

    def encode(self, arrays: Arrays) -> Floats:
        """Hidden states [batch, seq, width] of sources."""
        return self.graphs["encoder"](arrays)[0]

    def decode(self, hidden: Floats, mask: Array, targets: Array) -> Floats:
        """Logits [batch, vocab] of the token after each target [batch, seq]."""
        return self.graphs["decoder"]([hidden, mask, targets])[0]

    def predict(self, request: Request) -> dict[str, object]:
        """Give the target, its score and why it ended: end or length."""
        settings = self._settings(request)
        arrays = self.inputs(request)
        tokens, score = self.generate(arrays, **settings)
        ended = tokens[-1] == self.contract["generation"]["eos"]
        text = self.text.decode(tokens[:-1] if ended else tokens)
        return {"text": text, "score": score, "finish": "end" if ended else "length"}

    def _settings(self, request: Request) -> Search:
        """The search of a request, what it does not say from the contract."""
        known = self.contract["decoding"]
        beams = whole_in(request, "beams", known["beams"])
        penalty = number_in(request, "length_penalty", known["length_penalty"])
        longest = whole_in(request, "max_new_tokens", known["max_new_tokens"])
        check_range("beams", beams, 1, MAX_BEAMS)
        check_range("length_penalty", penalty, -10, 10)
        check_range("max_new_tokens", longest, 1, self.contract["limits"]["max_new_tokens"])
        most = self.contract["generation"]["max_positions"]
        return Search(beams=beams, length_penalty=penalty, max_new_tokens=min(longest, most))

    def ruled(self, scores: Float64s) -> Float64s:
        """Scores [targets, vocab] with those out that the model never says."""
        scores[:, self.contract["generation"]["suppressed"]] = -np.inf
        return scores

    def generate(
        self, arrays: Arrays, *, beams: int, length_penalty: float, max_new_tokens: int
    ) -> tuple[list[int], float]:
        """Token ids of the target, with eos unless cut off, and its log-likelihood by length."""
        rules, hidden = self.contract["generation"], self.encode(arrays)

        def next_scores(targets: list[list[int]]) -> Float64s:
            # Every hypothesis sees the same source: [targets, source, width].
            states = np.repeat(hidden, len(targets), axis=0)
            mask = np.repeat(arrays[1], len(targets), axis=0)
            begun = np.array([[rules["start"], *target] for target in targets], np.int64)
            return self.ruled(log_softmax(self.decode(states, mask, begun)))

        if beams == 1:
            return _greedy(next_scores, rules["eos"], max_new_tokens, length_penalty)
        return _beam_search(next_scores, rules["eos"], max_new_tokens, beams, length_penalty)


def _greedy(
    next_scores: NextScores, eos: int, limit: int, length_penalty: float
) -> tuple[list[int], float]:
    tokens, total = list[int](), 0.0
    # A slice, since there is no last token at the beginning.
    while len(tokens) < limit and tokens[-1:] != [eos]:
        scores = next_scores([tokens])[0]
        tokens.append(int(scores.argmax()))
        total += float(scores[tokens[-1]])
    return tokens, total / len(tokens) ** length_penalty


def _beam_search(
    next_scores: NextScores, eos: int, limit: int, beams: int, length_penalty: float
) -> tuple[list[int], float]:
    """Keep the likeliest targets until as many as there are beams have ended, or none can gain.

    Source: transformers, `GenerationMixin._beam_search` with early_stopping; the same targets.
    """
    running: list[list[int]] = [[]]
    sums = np.zeros(1)
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, limit + 1):
        # [running * vocab]: how likely each hypothesis is with each next token
        scores = (next_scores(running) + sums[:, None]).ravel()
        vocab = len(scores) // len(running)
        # Twice as many as beams: each hypothesis can end once, so as many are left to go on.
        best = np.argsort(-scores, kind="stable")[: 2 * beams]
        candidates = [[*running[place // vocab], int(place % vocab)] for place in best]
        # At the limit a hypothesis is finished as it stands, without eos.
        ended = np.array([c[-1] == eos or length == limit for c in candidates])
        # One that ends further down is dropped: it was never among the beams.
        for rank in range(min(beams, len(best))):
            if ended[rank]:
                score = float(scores[best[rank]])
                finished.append((score / length**length_penalty, candidates[rank]))
        finished = sorted(finished, key=lambda entry: -entry[0])[:beams]
        open_ranks = [rank for rank in range(len(best)) if not ended[rank]][:beams]
        if len(finished) == beams or not open_ranks:
            break
        running, sums = [candidates[rank] for rank in open_ranks], scores[best[open_ranks]]
    score, tokens = finished[0]
    return tokens, score


TASK = Seq2SeqTask
