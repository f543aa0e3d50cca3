"""Answers in conversations that show images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import numpy as np

from plumbline.data.turns import IMAGE_ID, IMAGE_MARK, Turn, count_images
from plumbline.export.runtime.contract import (
    COUNT,
    SPECIAL_IDS,
    Contract,
    Fields,
    SpecialIds,
)
from plumbline.export.runtime.files import Files, Floats, Graph, InputError
from plumbline.export.runtime.inputs import INPUTS, Arrays, ImageSection, Request, text_in
from plumbline.export.runtime.model import Task
from plumbline.export.runtime.pixel_values import Preprocessor
from plumbline.export.runtime.scores import softmax
from plumbline.export.runtime.text import TextReader
from plumbline.kinds.language.chat_runtime import open_chat, turns_in
from plumbline.kinds.language.runtime import SIZES, Chat, Decoding, ImageDecoderSizes, chat_shape


class Text(TypedDict):
    """Section `text` of the contract: how long a conversation and its answer may be."""

    special_ids: SpecialIds
    max_positions: int
    max_new_tokens: int


class TalkContract(Contract):
    """What the task reads."""

    input: ImageSection
    text: Text
    decoder: ImageDecoderSizes
    chat: Chat


class TalkTask(Task[TalkContract]):
    """Says the assistant's next turn."""

    name = "vlm_turns"

    parts = frozenset({"vision", "decoder"})

    @staticmethod
    def shape(contract: Mapping[str, object]) -> Fields:
        """See `Task`."""
        return {
            "input": {"modality": {"image"}, **INPUTS["image"]},
            "text": {"special_ids": SPECIAL_IDS, "max_positions": COUNT, "max_new_tokens": COUNT},
            "decoder": {**SIZES, "image_tokens": COUNT},
            "chat": chat_shape(contract),
        }

    def __init__(self, contract: TalkContract, files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.fields = self.fields_of(contract)
        self.text = TextReader(files, contract["limits"]["max_text_chars"])
        self.preprocessor = Preprocessor(contract["input"], contract["limits"])
        self._chat = open_chat(contract["chat"], self.text)

    @staticmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """Name of each field of a request -> its type."""
        return {"images": "files", "question": "text", "messages": "turns"}

    def inputs(self, request: Request) -> Arrays:
        """Pixel values [images, 3, height, width], and ids [1, seq] with one for each image."""
        images, ids = self._read(request)
        arrays: Arrays = [np.array([ids], np.int64)]
        return [self._pixels(images), *arrays] if images else arrays

    def _pixels(self, images: Sequence[bytes]) -> Floats:
        named = ((image, f"images: image {number}") for number, image in enumerate(images, 1))
        return np.stack([self.preprocessor.pixel_values(image, name) for image, name in named])

    def _read(self, request: Request) -> tuple[list[bytes], list[int]]:
        """The images of a request, and ids up to where the answer begins.

        Raises:
            InputError: places and images differ in number, or there is no room for an answer.
        """
        images = request.get("images", [])
        assert isinstance(images, list)  # `Model` has compared it with its type
        turns = self._turns(request, len(images))
        if (places := count_images(turns)) != len(images):
            raise InputError(f"images: {len(images)}, where messages have {places} places of them")
        ids, longest = self._chat(turns), self.contract["text"]["max_positions"]
        tokens = len(ids) + places * (self.contract["decoder"]["image_tokens"] - 1)
        if tokens >= longest:
            raise InputError(f"messages: {tokens} tokens with images, the model takes {longest}")
        return images, ids

    def _turns(self, request: Request, images: int) -> list[Turn]:
        """The turns of a request; a question is a turn of the user behind all images."""
        if ("messages" in request) == ("question" in request):
            raise InputError("messages, or question: one of the two is needed")
        if "messages" in request:
            return turns_in(request, self.text)
        question = self.text.check("question", text_in(request, "question", ""))
        turn: Turn = {"role": "user", "content": images * f"{IMAGE_MARK}\n" + question}
        return [{**turn, "images": list(range(images))} if images else turn]

    def embed(self, pixel_values: Floats) -> Floats:
        """Map [images, 3, height, width] to [images, image_tokens, width]."""
        return self.graphs["vision"]([pixel_values])[0]

    def begin(self, images: Sequence[bytes], ids: Sequence[int]) -> tuple[Decoding, Floats]:
        """See a conversation; logits [1, vocab] of the first token of the answer.

        A piece of it at a time: the graph takes images in front of ids, and goes on from its cache.
        """
        decoding = Decoding(self.graphs["decoder"], self.contract["decoder"], 1)
        # [images, image_tokens, width], all at once.
        embeds = self.embed(self._pixels(images)) if images else None
        logits, seen = np.zeros((1, 0), np.float32), 0
        for shown, piece in _pieces(ids):
            part = None
            if embeds is not None and shown:
                # [1, shown * image_tokens, width]
                part = embeds[seen : seen + shown].reshape(1, -1, embeds.shape[-1])
            logits = decoding.prefill(np.array([piece], np.int64).reshape(1, -1), part)
            seen += shown
        return decoding, logits

    def predict(self, request: Request) -> dict[str, object]:
        """Give the answer and its confidence: the product of the probabilities of its tokens."""
        images, ids = self._read(request)
        text, tokens, confidence = self.contract["text"], list[int](), 1.0
        # What is added gets the room that the conversation leaves.
        used = len(ids) + len(images) * (self.contract["decoder"]["image_tokens"] - 1)
        longest = min(text["max_new_tokens"], text["max_positions"] - used)
        decoding, logits = self.begin(images, ids)
        while True:
            tokens.append(int(logits[0].argmax()))
            # Its end counts too: a model may be sure of a word and not of ending there.
            confidence *= float(softmax(logits[0])[tokens[-1]])
            ended = tokens[-1] == text["special_ids"]["eos"]
            if ended or len(tokens) == longest:
                said = self.text.decode(tokens[:-1] if ended else tokens)
                finish = "end" if ended else "length"
                return {"answer": said, "confidence": confidence, "finish": finish}
            logits = decoding.step(np.array(tokens[-1:], np.int64))


def _pieces(ids: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Images that follow each other, and the ids behind them, up to the next image."""
    shown, piece = 0, list[int]()
    for token in ids:
        if token == IMAGE_ID and piece:
            yield shown, piece
            shown, piece = 0, []
        if token == IMAGE_ID:
            shown += 1
        else:
            piece.append(token)
    yield shown, piece


TASK = TalkTask
