"""The next step of a sequence, in the units of the data."""

from collections.abc import Mapping

import numpy as np

from plumbline.export.runtime.contract import Contract, Fields
from plumbline.export.runtime.files import Files, Floats, Graph
from plumbline.export.runtime.inputs import INPUTS, Arrays, FeaturesSection, Request, open_reader
from plumbline.export.runtime.model import Task


class ForecastContract(Contract):
    """What the task reads of contract.json: its types; `shape` checks them."""

    input: FeaturesSection


class ForecastTask(Task[ForecastContract]):
    """Forecasts the step after those of an .npy file."""

    name = "forecast"
    required = ("features",)
    parts = frozenset({"model"})

    @staticmethod
    def shape(contract: Mapping[str, object]) -> Fields:
        """See `Task`."""
        return {"input": {"modality": {"features"}, **INPUTS["features"]}}

    @staticmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """See `Task`."""
        return {"features": "file"}

    def __init__(self, contract: ForecastContract, files: Files, graphs: dict[str, Graph]) -> None:
        super().__init__(contract, files, graphs)
        self.reader = open_reader(contract["input"], contract["limits"], files)
        self.fields = self.fields_of(contract)

    def inputs(self, request: Request) -> Arrays:
        """See `Task`: steps [1, steps, channels] and mask [1, steps]."""
        return self.reader.read_from(request)

    def forecasts(self, arrays: Arrays) -> Floats:
        """The step after each, [1, steps, channels], on the scale of training."""
        return self.graphs["model"](arrays)[0]

    def in_units(self, step: Floats) -> list[float]:
        """A step [channels] in the units of the data."""
        mean, std = self.contract["input"]["mean"], self.contract["input"]["std"]
        if mean is None or std is None:
            return [float(value) for value in step]
        scaled: list[float] = (step * np.maximum(std, 1e-6) + mean).tolist()
        return scaled

    def predict(self, request: Request) -> dict[str, object]:
        """See `Task`."""
        return {"next": self.in_units(self.forecasts(self.inputs(request))[0, -1])}


TASK = ForecastTask
