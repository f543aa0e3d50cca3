"""A text that goes on from a prompt."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from plumbline.export.runtime.contract import (
    COUNT,
    SPECIAL_IDS,
    Contract,
    Fields,
    SpecialIds,
    section,
)
from plumbline.export.runtime.files import Files, Graph, Ids, InputError
from plumbline.export.runtime.inputs import (
    Arrays,
    Request,
    check_range,
    number_in,
    text_in,
    whole_in,
)
from plumbline.export.runtime.model import Task
from plumbline.export.runtime.scores import choose_token
from plumbline.export.runtime.text import TextReader
from plumbline.kinds.language.runtime import SIZES, Chat, DecoderSizes, Decoding, chat_shape

if TYPE_CHECKING:
    from plumbline.data.turns import Turn

MAX_STOPS = 16
TURNS = "turns"
"""The framing of models of conversations: a chat template makes the text of a prompt."""


class Text(TypedDict):
    """Section `text` of the contract: how a prompt becomes ids."""

    special_ids: SpecialIds
    framing: str
    max_positions: int


class Sampling(TypedDict):
    """Section `sampling` of the contract: how tokens are drawn where a request does not say."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    stop: list[str]
    seed: int


class CausalContract(Contract):
    """What the task reads."""

    text: Text
    sampling: Sampling
    decoder: DecoderSizes
    chat: NotRequired[Chat]
    """Of models of conversations."""


class CausalTask(Task[CausalContract]):
    """Goes on from a prompt."""

    name = "causal_lm"

    required: tuple[str, ...] = ("prompt",)
    parts = frozenset({"decoder"})

    @staticmethod
    def shape(contract: Mapping[str, object]) -> Fields:
        """See `Task`."""
        sampling: Fields = {
            "max_new_tokens": COUNT,
            "temperature": float,
            "top_k": (COUNT, None),
            "top_p": (float, None),
            "stop": [str],
            "seed": range(1 << 63),
        }
        framings = {"stream", "rows", "question_answer", TURNS}
        text: Fields = {"special_ids": SPECIAL_IDS, "framing": framings, "max_positions": COUNT}
        more = (
            {"chat": chat_shape(contract)} if section(contract, "text", "framing") == TURNS else {}
        )
        return {"text": text, "sampling": sampling, "decoder": SIZES, **more}

    def __init__(self, contract: CausalContract, files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.fields = self.fields_of(contract)
        self.text = TextReader(files, contract["limits"]["max_text_chars"])
        if "chat" in contract:
            # One of the two, which `_turns` checks.
            self.required = ()
            from plumbline.kinds.language.chat_runtime import open_chat

            self._chat = open_chat(contract["chat"], self.text)

    @staticmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """Name of each field of a request -> its type."""
        turns = {"messages": "turns"} if section(contract, "text", "framing") == TURNS else {}
        return {
            "prompt": "text",
            **turns,
            "max_new_tokens": "integer",
            "temperature": "number",
            "top_k": "integer",
            "top_p": "number",
            "stop": "texts",
            "seed": "integer",
        }

    def inputs(self, request: Request) -> Arrays:
        """Ids of the prompt [1, seq], whole where it fits; else as much of its end as does."""
        return [self._ids(request)]

    def _ids(self, request: Request) -> Ids:
        return np.array([self._prompt(request)[-self._longest :]], np.int64)

    @property
    def _longest(self) -> int:
        """Tokens of the longest prompt that leaves room for one more."""
        return self.contract["text"]["max_positions"] - 1

    def _prompt(self, request: Request) -> list[int]:
        text = self.contract["text"]
        bos = text["special_ids"]["bos"]
        if text["framing"] == TURNS:
            return self._chat(self._turns(request))
        prompt = self.text.check("prompt", text_in(request, "prompt", ""), empty=True)
        ids = self.text.encode(prompt)
        if text["framing"] == "question_answer":
            ids = [*ids, bos]
        elif text["framing"] == "rows":
            ids = [bos, *ids]
        if not ids:
            raise InputError("prompt: has no token to go on from")
        return ids

    def _turns(self, request: Request) -> "list[Turn]":
        """The turns of a request; a prompt is one of the user.

        Raises:
            InputError: there are none, both are given, or they are none that an answer follows.
        """
        from plumbline.data.turns import count_images
        from plumbline.kinds.language.chat_runtime import turns_in

        if ("messages" in request) == ("prompt" in request):
            raise InputError("messages, or prompt: one of the two is needed")
        if "prompt" in request:
            prompt = self.text.check("prompt", text_in(request, "prompt", ""), empty=True)
            return [{"role": "user", "content": prompt}]
        turns = turns_in(request, self.text)
        if count_images(turns):
            raise InputError("messages: show images, which a model of texts does not see")
        return turns

    def cut_tokens(self, request: Request) -> int:
        """See `Task`: of a prompt that is too long, its beginning."""
        return max(0, len(self._prompt(request)) - self._longest)

    def _settings(self, request: Request) -> Sampling:
        """The sampling of a request, what it does not say from the contract.

        Raises:
            InputError: a figure is out of its range.
        """
        known = self.contract["sampling"]
        # `Model` has refused all but lists of texts.
        stop = request.get("stop", known["stop"])
        assert isinstance(stop, list)
        settings = Sampling(
            max_new_tokens=whole_in(request, "max_new_tokens", known["max_new_tokens"]),
            temperature=number_in(request, "temperature", known["temperature"]),
            top_k=whole_in(request, "top_k", known["top_k"]),
            top_p=number_in(request, "top_p", known["top_p"]),
            stop=stop,
            seed=whole_in(request, "seed", known["seed"]),
        )
        longest = self.contract["limits"]["max_new_tokens"]
        check_range("max_new_tokens", settings["max_new_tokens"], 1, longest)
        check_range("temperature", settings["temperature"], 0, 100)
        check_range("top_k", settings["top_k"], 1, 1 << 31)
        check_range("top_p", settings["top_p"], 1e-6, 1)
        check_range("seed", settings["seed"], 0, (1 << 63) - 1)
        if 0 < settings["temperature"] < 1e-3:
            raise InputError("temperature: below 0.001 only 0, the likeliest token, is possible")
        if len(settings["stop"]) > MAX_STOPS or "" in settings["stop"]:
            raise InputError(f"stop: up to {MAX_STOPS} texts, none of them empty")
        return settings

    def decoding(self, batch: int) -> Decoding:
        """Begin a batch of texts."""
        return Decoding(self.graphs["decoder"], self.contract["decoder"], batch)

    def predict(self, request: Request) -> dict[str, object]:
        """Give what is added to the prompt, and why it ended: end, stop or length."""
        ids, settings = self._ids(request), self._settings(request)
        # Of this request alone: what was asked before does not change what is drawn.
        random = np.random.default_rng(settings["seed"])
        # What is added gets the room that the prompt leaves, never the other way round.
        room = self.contract["text"]["max_positions"] - ids.shape[1]
        longest = min(settings["max_new_tokens"], room)
        decoding = self.decoding(1)
        # [1, vocab]: a request is one text.
        logits, tokens, stops = decoding.prefill(ids), list[int](), settings["stop"]
        while True:
            token = choose_token(
                logits[0],
                random,
                temperature=settings["temperature"],
                top_k=settings["top_k"],
                top_p=settings["top_p"],
            )
            if token == self.contract["text"]["special_ids"]["eos"]:
                return self._answer(tokens, "end")
            tokens.append(token)
            # The whole text each time: a stop text may lie across tokens.
            if stops and any(stop in self.text.decode(tokens) for stop in stops):
                return self._answer(tokens, "stop", stops)
            if len(tokens) == longest:
                return self._answer(tokens, "length")
            logits = decoding.step(np.array([token], np.int64))

    def _answer(
        self, tokens: list[int], finish: str, stops: Sequence[str] = ()
    ) -> dict[str, object]:
        text = self.text.decode(tokens)
        ends = [text.index(stop) for stop in stops if stop in text]
        text = text[: min(ends)] if ends else text
        return {"text": text, "tokens": len(tokens), "finish": finish}


TASK = CausalTask
