"""Classes with their probabilities, and numbers: one result per head."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from plumbline.export.runtime.contract import Shape, section
from plumbline.export.runtime.files import Files, Floats, Graph, InputError
from plumbline.export.runtime.inputs import INPUTS, Arrays, open_reader
from plumbline.export.runtime.model import Task


class HeadedTask(Task):
    """What classification and regression share."""

    parts = frozenset({"model"})
    head: Shape
    """What stands in the contract for each head."""

    @classmethod
    def shape(cls, contract: Mapping[str, Any]) -> Shape:
        """See `Task`."""
        known = INPUTS.get(str(section(contract, "input", "modality")), {})
        return {"input": {"modality": set(INPUTS), **known}, "heads": {...: cls.head}}

    def __init__(self, contract: dict[str, Any], files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.reader = open_reader(contract["input"], contract["limits"], files)
        self.fields, self.required = self.fields_of(contract), (self.reader.field,)
        self.exact = self.reader.exact

    @staticmethod
    def fields_of(contract: Mapping[str, Any]) -> dict[str, str]:
        """Name of each field of a request -> its type."""
        modality = contract["input"]["modality"]
        return {modality: "text" if modality == "text" else "file"}

    def inputs(self, request: Mapping[str, Any]) -> Arrays:
        """See `Task`."""
        return self.reader.read(request[self.reader.field])

    def cut_tokens(self, request: Mapping[str, Any]) -> int:
        """See `Task`."""
        return self.reader.cut_tokens(request[self.reader.field])

    def logits(self, arrays: Arrays) -> dict[str, Floats]:
        """Outputs [batch, outputs] by head.

        Raises:
            InputError: one is not finite.
        """
        found = dict(zip(self.contract["heads"], self.graphs["model"](arrays), strict=True))
        if not all(np.isfinite(logits).all() for logits in found.values()):
            raise InputError("the model gave no finite scores for this input")
        return found
