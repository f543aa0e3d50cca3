"""Classes with their probabilities, and numbers: one result per head."""

from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

from plumbline.export.runtime.contract import Contract, Fields, section
from plumbline.export.runtime.files import Files, Floats, Graph, InputError
from plumbline.export.runtime.inputs import INPUTS, Arrays, InputSection, Request, open_reader
from plumbline.export.runtime.model import Task

HeadT = TypeVar("HeadT", bound=Mapping[str, object])


class HeadedContract(Contract, Generic[HeadT]):
    """What the task reads."""

    input: InputSection
    heads: dict[str, HeadT]


class HeadedTask(Task[HeadedContract[HeadT]], Generic[HeadT]):
    """What classification and regression share."""

    parts = frozenset({"model"})
    head: Fields
    """What stands in the contract for each head."""

    @classmethod
    def shape(cls, contract: Mapping[str, object]) -> Fields:
        """See `Task`."""
        # Nobody has checked this contract yet: the shape itself refuses an unknown modality.
        known = INPUTS.get(str(section(contract, "input", "modality")), {})
        return {"input": {"modality": set(INPUTS), **known}, "heads": {...: cls.head}}

    def __init__(
        self, contract: HeadedContract[HeadT], files: Files, graphs: dict[str, Graph]
    ) -> None:
        super().__init__(contract, files, graphs)
        self.reader = open_reader(contract["input"], contract["limits"], files)
        self.fields, self.required = self.fields_of(contract), (self.reader.field,)
        self.exact = self.reader.exact

    @staticmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """Name of each field of a request -> its type."""
        modality = str(section(contract, "input", "modality"))
        return {modality: "text" if modality == "text" else "file"}

    def inputs(self, request: Request) -> Arrays:
        """See `Task`."""
        return self.reader.read_from(request)

    def cut_tokens(self, request: Request) -> int:
        """See `Task`."""
        return self.reader.cut_from(request)

    def logits(self, arrays: Arrays) -> dict[str, Floats]:
        """Outputs [batch, outputs] by head.

        Raises:
            InputError: one is not finite.
        """
        # Both in the order of names: keys of JSON files here are sorted, and the model was
        # built from such a file.
        found = dict(zip(self.contract["heads"], self.graphs["model"](arrays), strict=True))
        if not all(np.isfinite(logits).all() for logits in found.values()):
            raise InputError("the model gave no finite scores for this input")
        return found
