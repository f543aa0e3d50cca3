"""A text that goes on from a prompt."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from plumbline.export.runtime.contract import COUNT, SPECIAL_IDS, Shape
from plumbline.export.runtime.files import Files, Graph, InputError
from plumbline.export.runtime.inputs import Arrays
from plumbline.export.runtime.model import Task
from plumbline.export.runtime.scores import choose_token
from plumbline.export.runtime.text import TextReader
from plumbline.kinds.language.runtime import SIZES, Decoding

MAX_STOPS = 16


class CausalTask(Task):
    """Goes on from a prompt."""

    name = "causal_lm"

    required = ("prompt",)
    parts = frozenset({"decoder"})

    @staticmethod
    def shape(contract: Mapping[str, Any]) -> Shape:
        """See `Task`."""
        sampling = {
            "max_new_tokens": COUNT,
            "temperature": float,
            "top_k": (COUNT, None),
            "top_p": (float, None),
            "stop": [str],
            "seed": range(1 << 63),
        }
        framings = {"stream", "rows", "question_answer"}
        text = {"special_ids": SPECIAL_IDS, "framing": framings, "max_positions": COUNT}
        return {"text": text, "sampling": sampling, "decoder": SIZES}

    def __init__(self, contract: dict[str, Any], files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.fields = self.fields_of(contract)
        self.text = TextReader(files, contract["limits"]["max_text_chars"])

    @staticmethod
    def fields_of(contract: Mapping[str, Any]) -> dict[str, str]:
        """Name of each field of a request -> its type."""
        return {
            "prompt": "text",
            "max_new_tokens": "integer",
            "temperature": "number",
            "top_k": "integer",
            "top_p": "number",
            "stop": "texts",
            "seed": "integer",
        }

    def inputs(self, request: Mapping[str, Any]) -> Arrays:
        """Ids of the prompt [1, seq], whole where it fits; else as much of its end as does."""
        return [np.array([self._prompt(request)[-self._longest :]], np.int64)]

    @property
    def _longest(self) -> int:
        """Tokens of the longest prompt that leaves room for one more."""
        return int(self.contract["text"]["max_positions"]) - 1

    def _prompt(self, request: Mapping[str, Any]) -> list[int]:
        text = self.contract["text"]
        bos = text["special_ids"]["bos"]
        ids = self.text.encode(self.text.check("prompt", request["prompt"], empty=True))
        if text["framing"] == "question_answer":
            ids = [*ids, bos]
        elif text["framing"] == "rows":
            ids = [bos, *ids]
        if not ids:
            raise InputError("prompt: has no token to go on from")
        return ids

    def cut_tokens(self, request: Mapping[str, Any]) -> int:
        """See `Task`: of a prompt that is too long, its beginning."""
        return max(0, len(self._prompt(request)) - self._longest)

    def _settings(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The sampling of a request, what it does not say from the contract.

        Raises:
            InputError: a figure is out of its range.
        """
        settings = {**self.contract["sampling"]}
        settings |= {name: request[name] for name in settings if name in request}
        ranges: dict[str, tuple[float, float]] = {
            "max_new_tokens": (1, self.contract["limits"]["max_new_tokens"]),
            "temperature": (0, 100),
            "top_k": (1, 1 << 31),
            "top_p": (1e-6, 1),
            "seed": (0, (1 << 63) - 1),
        }
        for name, (low, high) in ranges.items():
            if settings[name] is not None and not low <= settings[name] <= high:
                raise InputError(f"{name}: {settings[name]:g} is outside {low:g} to {high:g}")
        if 0 < settings["temperature"] < 1e-3:
            raise InputError("temperature: below 0.001 only 0, the likeliest token, is possible")
        if len(settings["stop"]) > MAX_STOPS or "" in settings["stop"]:
            raise InputError(f"stop: up to {MAX_STOPS} texts, none of them empty")
        return settings

    def decoding(self, batch: int) -> Decoding:
        """Begin a batch of texts."""
        return Decoding(self.graphs["decoder"], self.contract["decoder"], batch)

    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Give what is added to the prompt, and why it ended: end, stop or length."""
        ids, settings = self.inputs(request)[0], self._settings(request)
        random = np.random.default_rng(settings["seed"])
        drawing = {name: settings[name] for name in ("temperature", "top_k", "top_p")}
        # What is added gets the room that the prompt leaves, never the other way round.
        room = self.contract["text"]["max_positions"] - ids.shape[1]
        longest = min(settings["max_new_tokens"], room)
        decoding = self.decoding(1)
        logits, tokens, stops = decoding.prefill(ids), list[int](), settings["stop"]
        while True:
            token = choose_token(logits[0], random, **drawing)
            if token == self.contract["text"]["special_ids"]["eos"]:
                return self._answer(tokens, "end")
            tokens.append(token)
            if stops and any(stop in self.text.decode(tokens) for stop in stops):
                return self._answer(tokens, "stop", stops)
            if len(tokens) == longest:
                return self._answer(tokens, "length")
            logits = decoding.step(np.array([token], np.int64))

    def _answer(
        self, tokens: list[int], finish: str, stops: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        text = self.text.decode(tokens)
        ends = [text.index(stop) for stop in stops if stop in text]
        text = text[: min(ends)] if ends else text
        return {"text": text, "tokens": len(tokens), "finish": finish}


TASK = CausalTask
