"""The bundles of classifiers and regressors: one graph from a medium or text to all heads."""

from abc import abstractmethod
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from plumbline.errors import ExportError
from plumbline.export.config import ExportConfig
from plumbline.export.graphs import GraphSpec, ids_examples
from plumbline.export.media import (
    PACKAGES,
    SPECTROGRAM_TOLERANCE,
    SUFFIXES,
    check_image_size,
    encode_medium,
    input_contract,
    medium_examples,
    medium_turns,
    text_contract,
)
from plumbline.export.parity import Parity
from plumbline.export.plan import (
    FILE,
    READERS,
    BundleSource,
    GraphPlan,
    Readme,
    Request,
    SelftestSample,
    max_difference,
    spread,
)
from plumbline.export.runtime.model import Model
from plumbline.kinds.headed.model import Classifier, HeadedSpec
from plumbline.kinds.headed.rows import HeadedRows
from plumbline.kinds.headed.runtime import HeadedTask
from plumbline.loading.input_config import (
    ImageInputConfig,
    InputConfig,
    TextInputConfig,
)
from plumbline.loading.inputs import Input, build_input
from plumbline.models.encoder_config import BaseTextEncoderConfig, ImageEncoderConfig
from plumbline.tracking.progress import tracked

Floats = NDArray[np.float32]

EXAMPLES: dict[str, str] = {"text": "a short text, as the model knows them"}
NAMES = {
    "image": "an image",
    "audio": "a clip",
    "features": "a sequence of feature vectors (an .npy file of numbers [steps, channels])",
    "text": "a text",
}


class HeadedGraph(nn.Module):
    """A headed model whose inputs come one by one and whose logits go out in order."""

    def __init__(self, model: Classifier, names: list[str]) -> None:
        super().__init__()
        self.model, self._names = model, names

    def forward(self, first: Tensor, second: Tensor | None = None) -> tuple[Tensor, ...]:
        """Map the inputs to logits [batch, outputs] of every head."""
        # A graph takes inputs in order, an encoder by name.
        given = [first] if second is None else [first, second]
        return tuple(self.model(**dict(zip(self._names, given, strict=True))).values())


SpecT = TypeVar("SpecT", bound=HeadedSpec)
RowsT = TypeVar("RowsT", bound=HeadedRows)


class HeadedPlan(GraphPlan[ExportConfig, Classifier, SpecT], Generic[SpecT, RowsT]):
    """What classification and regression share."""

    answers: str
    """File of code with the `TASK` of the kind."""
    verb: str
    """What the model does with an input, for the README."""
    answer: str
    """What an answer holds, for the README."""
    decision: str
    metric: str

    def __init__(self, source: BundleSource[Classifier, SpecT], config: ExportConfig) -> None:
        super().__init__(source, config)
        modality = self.inputs.modality
        if modality not in PACKAGES:  # the weights alone can be exported: `check` refuses graphs
            return
        self.packages = PACKAGES[modality]
        self.runtime = (self.answers, "plumbline/kinds/headed/runtime.py", *READERS[modality])
        self.readme = Readme(
            title=f"A model that {self.verb} {NAMES[modality]}",
            answer=self.answer,
            example={modality: EXAMPLES.get(modality, FILE)},
            graphs={"model": f"{NAMES[modality]}, preprocessed, to the outputs of every head"},
            suffix=SUFFIXES[modality],
        )

    @property
    def inputs(self) -> InputConfig:
        """How inputs reach the model."""
        return self.stored.spec.inputs

    @property
    def _image_size(self) -> int | None:
        encoder = self.stored.spec.encoder
        return encoder.image_size if isinstance(encoder, ImageEncoderConfig) else None

    def _build_input(self) -> Input:
        return build_input(self.inputs, self.cache, image_size=self._image_size, as_asked=True)

    @override
    def check(self) -> None:
        encoder = self.stored.spec.encoder
        if isinstance(encoder, BaseTextEncoderConfig) and encoder.takes_strings:
            raise ExportError(
                f"encoder {encoder.name}: reads raw texts, which no graph does; set "  # type: ignore[attr-defined]
                "export.formats: [] for the weights alone"
            )
        if self.inputs.modality not in PACKAGES:
            raise ExportError(
                f"inputs.modality = {self.inputs.modality!r}: the bundle's scripts do not read it; "
                "set export.formats: [] for the weights alone"
            )
        if isinstance(encoder, ImageEncoderConfig):
            assert isinstance(self.inputs, ImageInputConfig)
            check_image_size(self.cache, encoder.image_size, self.inputs)

    @override
    def contract(self) -> dict[str, object]:
        spec = self.stored.spec
        return {"task": spec.kind, "input": self._input_contract(), "heads": self._heads()}

    @abstractmethod
    def _heads(self) -> dict[str, object]:
        """What the contract says of each head."""

    def _input_contract(self) -> dict[str, object]:
        spec, config = self.stored.spec, self.inputs
        if isinstance(config, TextInputConfig):
            return text_contract(spec.special_ids, config.max_tokens)
        return input_contract(config, self.cache, spec.encoder)

    @override
    def description(self) -> dict[str, object]:
        encoder = self.stored.model.encoder
        return {"encoder": type(encoder).__name__, "width": encoder.width}

    @override
    def graphs(self) -> dict[str, GraphSpec]:
        spec, modality = self.stored.spec, self.inputs.modality
        if modality == "text":
            inputs, dynamic = ids_examples(spec.vocab_size)
        else:
            inputs, dynamic = medium_examples(self.inputs, spec.encoder, spec.channels)
        module = HeadedGraph(self.stored.model, list(inputs)).eval()
        # Numbered, since a part may have a name that no output of a graph can have.
        return {"model": GraphSpec(module, inputs, dynamic, [f"logits_{i}" for i in self._order()])}

    def _order(self) -> range:
        return range(len(self.stored.model.heads))

    @abstractmethod
    def _rows(self, inputs: Input) -> RowsT:
        """The samples of the split, with `numbers` of their inputs."""

    @override
    def measure(self, exported: Model) -> Parity:
        task = exported.task
        assert isinstance(task, HeadedTask)
        inputs = self._build_input()
        rows = self._rows(inputs)
        places = spread(len(rows), self.config.parity_samples)
        ours: list[dict[str, Floats]] = []
        theirs: list[dict[str, Floats]] = []
        differences = []
        # Samples one by one, as a bundle is asked; without draws nothing is augmented.
        for place in tracked(places, "comparing", len(places), "samples"):
            number = int(rows.numbers[place])
            batch = inputs.collate([inputs.fetch(number)], [number], None)
            # Encoded again and read by the bundle's own script: its decoding is compared too.
            given = task.inputs(self._request(number))
            differences.append(max_difference([v.numpy() for v in batch.values()], given))
            with torch.inference_mode():
                logits = self.stored.model(**batch)
            ours.append({name: value.numpy() for name, value in logits.items()})
            theirs.append(task.logits(given))
        # [samples, outputs] by head, of both sides
        stacked = [
            {name: np.concatenate([row[name] for row in side]) for name in side[0]}
            for side in (ours, theirs)
        ]
        return self._compare(rows, places, stacked[0], stacked[1], float(np.max(differences)))

    def _compare(
        self,
        rows: RowsT,
        places: list[int],
        known: dict[str, Floats],
        got: dict[str, Floats],
        input_difference: float,
    ) -> Parity:
        agreement, decisions = self._agreement(known, got)
        figures = [self._metric(rows, places, side) for side in (known, got)]
        return Parity(
            samples=len(places),
            decision=self.decision,
            decisions=decisions,
            agreement=agreement,
            metric=self.metric,
            metric_known=figures[0],
            metric_found=figures[1],
            max_input_difference=input_difference,
            max_logits_difference=max_difference(
                list(known.values()), [got[name] for name in known]
            ),
            input_tolerance=SPECTROGRAM_TOLERANCE if self.inputs.modality == "audio" else 1e-6,
        )

    @abstractmethod
    def _agreement(self, known: dict[str, Floats], got: dict[str, Floats]) -> tuple[float, int]: ...

    @abstractmethod
    def _metric(self, rows: RowsT, places: list[int], outputs: dict[str, Floats]) -> float: ...

    def _request(self, number: int) -> Request:
        modality = self.inputs.modality
        return {modality: encode_medium(self.cache, modality, number)}

    @override
    def selftest(self, exported: Model) -> list[SelftestSample]:
        inputs = self._build_input()
        rows = self._rows(inputs)
        samples = []
        for place in spread(len(rows), self.config.selftest_samples):
            number = int(rows.numbers[place])
            batch = inputs.collate([inputs.fetch(number)], [number], None)
            with torch.inference_mode():
                # [outputs] by head
                logits = {k: v[0].numpy() for k, v in self.stored.model(**batch).items()}
            request = self._request(number)
            samples.append(
                SelftestSample(request, SUFFIXES[self.inputs.modality], self._expected(logits))
            )
        return samples

    @abstractmethod
    def _expected(self, logits: dict[str, Floats]) -> dict[str, object]: ...

    @override
    def preprocessing(self) -> dict[str, Request]:
        modality = self.inputs.modality
        return {name: {modality: data} for name, data in medium_turns(self.cache, modality).items()}
