"""The bundle of a forecast: steps in, the step after each out."""

import torch
from typing_extensions import override

from plugins.forecast.model import Forecaster, ForecastSpec
from plugins.forecast.runtime import ForecastTask
from plugins.forecast.train import Sequences
from plumbline.export.config import ExportConfig
from plumbline.export.graphs import GraphSpec
from plumbline.export.media import encode_medium, features_contract
from plumbline.export.parity import Parity
from plumbline.export.plan import (
    READERS,
    GraphPlan,
    Readme,
    Request,
    SelftestSample,
    max_difference,
    spread,
)
from plumbline.export.runtime.files import Array, Floats
from plumbline.export.runtime.model import Model
from plumbline.loading.inputs import build_input


class ForecastPlan(GraphPlan[ExportConfig, Forecaster, ForecastSpec]):
    """What is special in the bundle of a forecast."""

    runtime = ("plugins/forecast/runtime.py", *READERS["features"])
    readme = Readme(
        title="A model that forecasts the next step of a sequence (an .npy file [steps, channels])",
        answer="It holds the next step in the units of the data.",
        example={"features": "FILE"},
        graphs={"model": "steps and their mask to the step after each"},
        suffix=".npy",
    )

    @override
    def contract(self) -> dict[str, object]:
        spec = self.stored.spec
        return {"task": "forecast", "input": features_contract(spec.inputs, self.cache, None)}

    @override
    def graphs(self) -> dict[str, GraphSpec]:
        channels = self.stored.spec.channels
        mask = torch.ones(2, 9, dtype=torch.bool)
        mask[1, 6:] = False
        steps = torch.linspace(-2, 2, 2 * 9 * channels).view(2, 9, channels)
        axes = {0: "batch", 1: "steps"}
        dynamic = {"steps": axes, "mask": axes}
        module = self.stored.model
        return {"model": GraphSpec(module, {"steps": steps, "mask": mask}, dynamic, ["forecasts"])}

    def _request(self, number: int) -> Request:
        return {"features": encode_medium(self.cache, "features", number)}

    @torch.inference_mode()
    def _expected(self, number: int) -> tuple[list[Array], Floats]:
        """The inputs and the forecasts [1, steps, channels] of the checkpoint."""
        inputs = build_input(self.stored.spec.inputs, self.cache)
        batch = inputs.collate([inputs.fetch(number)], [number], None)
        forecasts: Floats = self.stored.model(**batch).numpy()
        return [value.numpy() for value in batch.values()], forecasts

    def _chosen(self, count: int) -> list[int]:
        rows = Sequences(
            self.cache, self.config.split, build_input(self.stored.spec.inputs, self.cache)
        )
        return [int(rows.numbers[place]) for place in spread(len(rows), count)]

    @override
    def measure(self, exported: Model) -> Parity:
        task = exported.task
        assert isinstance(task, ForecastTask)
        chosen = self._chosen(self.config.parity_samples)
        inputs, outputs, equal = 0.0, 0.0, 0
        for number in chosen:
            known, forecasts = self._expected(number)
            given = task.inputs(self._request(number))
            inputs = max(inputs, max_difference(known, given))
            difference = max_difference([forecasts], [task.forecasts(given)])
            outputs = max(outputs, difference)
            equal += difference <= self.config.max_logits_difference
        return Parity(
            samples=len(chosen),
            decision="value",
            decisions=len(chosen),
            agreement=equal / len(chosen),
            metric="mse",
            metric_known=0.0,  # against the checkpoint itself
            metric_found=outputs**2,
            max_input_difference=inputs,
            max_logits_difference=outputs,
        )

    @override
    def selftest(self, exported: Model) -> list[SelftestSample]:
        task = exported.task
        assert isinstance(task, ForecastTask)
        samples = []
        for number in self._chosen(self.config.selftest_samples):
            last = self._expected(number)[1][0, -1]
            answer = {"next": task.in_units(last)}
            samples.append(SelftestSample(self._request(number), ".npy", answer))
        return samples


PLAN = ForecastPlan
