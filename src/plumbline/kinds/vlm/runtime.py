"""Answers to questions about images."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from plumbline.export.runtime.contract import (
    COUNT,
    SPECIAL_IDS,
    Contract,
    Fields,
    SpecialIds,
)
from plumbline.export.runtime.files import Files, Floats, Graph, Ids, InputError
from plumbline.export.runtime.inputs import (
    INPUTS,
    Arrays,
    ImageSection,
    Request,
    file_in,
    text_in,
)
from plumbline.export.runtime.model import Task
from plumbline.export.runtime.pixel_values import Preprocessor
from plumbline.export.runtime.scores import softmax
from plumbline.export.runtime.text import TextReader
from plumbline.kinds.language.runtime import SIZES, Decoding, ImageDecoderSizes


class Text(TypedDict):
    """Section `text` of the contract: how a question becomes ids, and how long an answer is."""

    special_ids: SpecialIds
    caption_prompt: str
    max_prompt_tokens: int
    max_new_tokens: int


class VlmContract(Contract):
    """What the task reads."""

    input: ImageSection
    text: Text
    decoder: ImageDecoderSizes


class VlmTask(Task[VlmContract]):
    """Answers a question about an image, or describes it."""

    name = "vlm"

    required = ("image",)
    parts = frozenset({"vision", "decoder"})

    @staticmethod
    def shape(contract: Mapping[str, object]) -> Fields:
        """See `Task`."""
        text: Fields = {
            "special_ids": SPECIAL_IDS,
            "caption_prompt": str,
            "max_prompt_tokens": COUNT,
            "max_new_tokens": COUNT,
        }
        decoder: Fields = {**SIZES, "image_tokens": COUNT}
        return {
            "input": {"modality": {"image"}, **INPUTS["image"]},
            "text": text,
            "decoder": decoder,
        }

    def __init__(self, contract: VlmContract, files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.fields = self.fields_of(contract)
        self.text = TextReader(files, contract["limits"]["max_text_chars"])
        self.preprocessor = Preprocessor(contract["input"], contract["limits"])

    @staticmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """Name of each field of a request -> its type."""
        return {"image": "file", "question": "text", "describe": "flag"}

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids that lead the answer: the question, cut to its longest length, then bos.

        Raises:
            InputError: the question is empty, too long, or no text.
        """
        text = self.contract["text"]
        ids = self._encode(question)
        # bos stands behind the question: it begins the answer, as in training.
        return [*ids[: text["max_prompt_tokens"]], text["special_ids"]["bos"]]

    def _encode(self, question: str) -> list[int]:
        return self.text.encode(self.text.check("question", question))

    def cut_tokens(self, request: Request) -> int:
        """See `Task`: of a question that is too long, its end."""
        question = text_in(request, "question", None)
        tokens = 0 if question is None else len(self._encode(question))
        return max(0, tokens - self.contract["text"]["max_prompt_tokens"])

    def inputs(self, request: Request) -> Arrays:
        """Pixel values [1, 3, height, width] and the ids of the prompt [1, seq]."""
        return list(self._inputs(request))

    def _inputs(self, request: Request) -> tuple[Floats, Ids]:
        question = text_in(request, "question", None)
        if question is not None and request.get("describe"):
            raise InputError("question: not together with describe")
        prompt = self.contract["text"]["caption_prompt"] if question is None else question
        ids = np.array([self.prompt_ids(prompt)], np.int64)
        return self.preprocessor.pixel_values(file_in(request, "image"))[None], ids

    def embed(self, pixel_values: Floats) -> Floats:
        """Map [batch, 3, height, width] to [batch, image_tokens, width]."""
        return self.graphs["vision"]([pixel_values])[0]

    def decoding(self, batch: int) -> Decoding:
        """Begin a batch of answers."""
        return Decoding(self.graphs["decoder"], self.contract["decoder"], batch)

    def generate(self, image_embeds: Floats, prompt: Sequence[int]) -> tuple[list[int], float]:
        """Answer one prompt greedily: token ids, with eos unless cut off, and the confidence."""
        text, tokens, confidence = self.contract["text"], list[int](), 1.0
        decoding = self.decoding(1)
        logits = decoding.prefill(np.array([prompt], np.int64), image_embeds)  # [1, vocab]
        while True:
            tokens.append(int(logits[0].argmax()))
            # Its eos counts too: a model may be sure of a word and not of ending there.
            confidence *= float(softmax(logits[0])[tokens[-1]])
            if tokens[-1] == text["special_ids"]["eos"] or len(tokens) == text["max_new_tokens"]:
                return tokens, confidence
            logits = decoding.step(np.array(tokens[-1:], np.int64))

    def predict(self, request: Request) -> dict[str, object]:
        """Give the answer and its confidence: the product of the probabilities of its tokens."""
        pixels, ids = self._inputs(request)
        tokens, confidence = self.generate(self.embed(pixels), ids[0].tolist())
        ended = tokens[-1] == self.contract["text"]["special_ids"]["eos"]
        said = self.text.decode(tokens[:-1] if ended else tokens)
        finish = "end" if ended else "length"
        return {"answer": said, "confidence": confidence, "finish": finish}


TASK = VlmTask
