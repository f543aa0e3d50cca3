"""The gaps of a text, filled."""

from collections.abc import Callable, Mapping, Sequence
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
from plumbline.export.runtime.files import Files, Floats, Graph, InputError
from plumbline.export.runtime.inputs import Arrays, Request, ids_and_mask, text_in, whole_in
from plumbline.export.runtime.model import Task
from plumbline.export.runtime.scores import softmax
from plumbline.export.runtime.text import TextReader

MAX_CANDIDATES = 1000


class Text(TypedDict):
    """Section `text` of the contract: how a text becomes ids."""

    special_ids: SpecialIds
    framing: str
    max_tokens: int


class Mask(TypedDict):
    """Section `mask` of the contract: what stands for a gap."""

    id: int
    text: str
    takes_space: bool


class MaskedContract(Contract):
    """What the task reads."""

    text: Text
    mask: Mask
    candidates: int


class MaskedTask(Task[MaskedContract]):
    """Says what may stand in the gaps of a text."""

    name = "masked_lm"

    required = ("text",)
    parts = frozenset({"model"})

    @staticmethod
    def shape(contract: Mapping[str, object]) -> Fields:
        """See `Task`."""
        framings = {"stream", "rows"}
        return {
            "text": {"special_ids": SPECIAL_IDS, "framing": framings, "max_tokens": COUNT},
            "mask": {"id": ID, "text": str, "takes_space": bool},
            "candidates": COUNT,
        }

    def __init__(self, contract: MaskedContract, files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.fields = self.fields_of(contract)
        self.text = TextReader(files, contract["limits"]["max_text_chars"])

    @staticmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """Name of each field of a request -> its type."""
        return {"text": "text", "candidates": "integer"}

    def _segments(self, text: str) -> list[str]:
        mask = self.contract["mask"]
        segments = split_gaps(self.text.check("text", text), mask["text"], mask["takes_space"])
        if len(segments) < 2:
            raise InputError(f"text: has no {mask['text']} to fill")
        return segments

    def inputs(self, request: Request) -> Arrays:
        """input_ids and attention_mask [1, seq]."""
        special = self.contract["text"]["special_ids"]
        rows = self.contract["text"]["framing"] == "rows"
        frame = (special["bos"], special["eos"]) if rows else None
        segments = self._segments(text_in(request, "text", ""))
        ids = gap_ids(segments, self.text.encode, self.contract["mask"]["id"], frame)
        # Refused and not cut: a gap may be in what would be cut.
        if len(ids) > (most := self.contract["text"]["max_tokens"]):
            raise InputError(f"text: {len(ids)} tokens, the model takes {most}")
        return ids_and_mask(ids)

    def logits(self, arrays: Arrays) -> Floats:
        """Scores [batch, seq, vocab] of the token in each place."""
        return self.graphs["model"](arrays)[0]

    def predict(self, request: Request) -> dict[str, object]:
        """Give the likeliest tokens of each gap with their probabilities, and the filled text."""
        count = whole_in(request, "candidates", self.contract["candidates"])
        if not 1 <= count <= MAX_CANDIDATES:
            raise InputError(f"candidates: {count} is outside 1 to {MAX_CANDIDATES}")
        arrays = self.inputs(request)
        logits = self.logits(arrays)[0]  # [seq, vocab]
        places = np.flatnonzero(arrays[0][0] == self.contract["mask"]["id"])
        segments = self._segments(text_in(request, "text", ""))
        return fill_gaps(segments, logits[places], count, self.text.decode)


def split_gaps(text: str, mask: str, takes_space: bool) -> list[str]:
    """The text around its gaps; where a word's token takes its space, so does a gap."""
    segments = text.split(mask)
    if takes_space:
        segments = [*(segment.removesuffix(" ") for segment in segments[:-1]), segments[-1]]
    return segments


def gap_ids(
    segments: Sequence[str],
    encode: Callable[[str], list[int]],
    mask_id: int,
    frame: tuple[int, int] | None,
) -> list[int]:
    """Token ids of a text with gaps, between bos and eos where rows were trained so."""
    ids: list[int] = []
    for number, segment in enumerate(segments):
        ids += [mask_id] if number else []
        # Piece by piece: to the tokenizer the text of a mask is text like any other.
        ids += encode(segment) if segment else []
    return [frame[0], *ids, frame[1]] if frame else ids


def fill_gaps(
    segments: Sequence[str], logits: Floats, count: int, decode: Callable[[list[int]], str]
) -> dict[str, object]:
    """The `count` likeliest tokens of each gap, from its logits [gaps, vocab], and the text."""
    filled, masks = segments[0], []
    for row, segment in zip(logits, segments[1:], strict=True):
        probabilities = softmax(row)
        # Of equal probabilities the lower id comes first, on any machine.
        best = np.argsort(-probabilities, kind="stable")[:count].tolist()
        found = [
            {"text": decode([token]), "probability": float(probabilities[token])} for token in best
        ]
        masks.append(found)
        # Each gap for itself: the model has seen the others as masks.
        filled += str(found[0]["text"]) + segment
    return {"text": filled, "masks": masks}


TASK = MaskedTask
