"""Which media and texts of a bundle's gallery lie nearest to a text or to a medium."""

import io
import json
from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from plumbline.export.runtime.contract import COUNT, Contract, Fields, blamed, check_shape, section
from plumbline.export.runtime.files import Files, Floats, Graph, InputError
from plumbline.export.runtime.inputs import (
    INPUTS,
    Arrays,
    InputSection,
    Request,
    TextSection,
    check_range,
    open_reader,
    whole_in,
)
from plumbline.export.runtime.model import Task

MEDIUM: Fields = {"file": str, "texts": [range(COUNT.stop)]}
GALLERY: Fields = {"media": [MEDIUM], "texts": [str]}
"""What stands in the list of a gallery."""


class GalleryMedium(TypedDict):
    """A medium that can be found."""

    file: str
    texts: list[int]
    """Numbers of those that belong to it."""


class GalleryFiles(TypedDict):
    """The files of a gallery: its list, and the embeddings of both sides in its order."""

    list: str
    media: str
    texts: str


class RetrievalContract(Contract):
    """What the task reads."""

    input: InputSection
    text_input: TextSection
    embed_dim: int
    nearest: int
    """How many an answer names where the request does not say."""
    gallery: GalleryFiles


class RetrievalTask(Task[RetrievalContract]):
    """The media, and of a medium the texts, whose embeddings have the largest cosines."""

    name = "alignment"
    parts = frozenset({"media", "text"})

    @staticmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """See `Task`."""
        modality = str(section(contract, "input", "modality"))
        return {"text": "text", modality: "file", "nearest": "integer"}

    @staticmethod
    def shape(contract: Mapping[str, object]) -> Fields:
        """See `Task`."""
        media = {name: fields for name, fields in INPUTS.items() if name != "text"}
        known = media.get(str(section(contract, "input", "modality")), {})
        return {
            "input": {"modality": set(media), **known},
            "text_input": {"modality": {"text"}, **INPUTS["text"]},
            "embed_dim": COUNT,
            "nearest": COUNT,
            "gallery": {"list": str, "media": str, "texts": str},
        }

    def __init__(self, contract: RetrievalContract, files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.fields = self.fields_of(contract)
        readers = (
            open_reader(contract[name], contract["limits"], files)
            for name in ("text_input", "input")
        )
        self._readers = {reader.field: reader for reader in readers}
        self.either = tuple(self._readers)
        self.exact = all(reader.exact for reader in self._readers.values())
        gallery = contract["gallery"]
        listed = json.loads(files.read(gallery["list"]))
        check_shape(listed, GALLERY, gallery["list"])
        self._media: list[GalleryMedium] = listed["media"]
        self._texts: list[str] = listed["texts"]
        # Lists that passed the check and vectors of others: neither alone shows that.
        with blamed(gallery["list"]):
            self._media_index = self._read_index(gallery["media"], len(self._media))
            self._text_index = self._read_index(gallery["texts"], len(self._texts))

    def _read_index(self, name: str, rows: int) -> Floats:
        """Embeddings [rows, embed_dim] of unit length."""
        # A pickle would run code of whoever wrote it.
        index: Floats = np.load(io.BytesIO(self.files.read(name)), allow_pickle=False)
        if index.shape != (rows, self.contract["embed_dim"]) or index.dtype != np.float32:
            raise ValueError(f"{name} is no float32 of [{rows}, {self.contract['embed_dim']}]")
        return index

    def inputs(self, request: Request) -> Arrays:
        """See `Task`."""
        return self._readers[self._asked(request)].read_from(request)

    def predict(self, request: Request) -> dict[str, object]:
        """Give the nearest media; of a medium the nearest texts too. A score is a cosine."""
        # Of what there is fewer of, all: an answer is as long as there is something to name.
        most = max(len(self._media), len(self._texts))
        count = whole_in(request, "nearest", self.contract["nearest"])
        if "nearest" in request:
            check_range("nearest", count, 1, most)
        asked = self._asked(request)
        query = self.embed(asked, self._readers[asked].read_from(request))
        media = [
            {
                "file": self._media[at]["file"],
                "score": score,
                "texts": [self._texts[number] for number in self._media[at]["texts"]],
            }
            for at, score in _nearest(self._media_index @ query, count)
        ]
        if asked == "text":
            return {"media": media}
        ranked = _nearest(self._text_index @ query, count)
        return {
            "texts": [{"text": self._texts[at], "score": s} for at, s in ranked],
            "media": media,
        }

    def embed(self, asked: str, arrays: Arrays) -> Floats:
        """The embedding [embed_dim] of unit length of what a field holds.

        Raises:
            InputError: it is not finite.
        """
        (embedded,) = self.graphs["text" if asked == "text" else "media"](arrays)
        if not np.isfinite(embedded).all():
            raise InputError("the model gave no finite embedding for this input")
        vector: Floats = embedded[0]  # of [1, embed_dim]: a request is one sample
        return vector

    def cut_tokens(self, request: Request) -> int:
        """See `Task`."""
        return self._readers[self._asked(request)].cut_from(request)

    def _asked(self, request: Request) -> str:
        return next(name for name in self.either if name in request)


def _nearest(scores: Floats, count: int) -> list[tuple[int, float]]:
    """Places of the largest scores, and these; of equal ones the lower place first."""
    # [count]; stable, so that equal scores have one order on any machine
    order = np.argsort(-scores, kind="stable")[:count].tolist()
    return [(at, float(scores[at])) for at in order]


TASK = RetrievalTask
