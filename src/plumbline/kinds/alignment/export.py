"""The bundle of an alignment: two graphs, and a gallery of media that can be found."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from plumbline.batch import Batch
from plumbline.errors import ExportError
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
from plumbline.files import dump_json
from plumbline.kinds.alignment.model import DualEncoder, DualEncoderSpec, unit
from plumbline.kinds.alignment.runtime import RetrievalTask
from plumbline.kinds.alignment.settings import AlignmentExportConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.inputs import Input, build_input
from plumbline.loading.text_batches import collate_texts
from plumbline.metrics.retrieval import relation_of_rows, retrieval_report
from plumbline.models.encoder_config import ImageEncoderConfig
from plumbline.tracking.progress import tracked

Floats = NDArray[np.float32]

TIED = 1e-5
"""Cosines that differ by less are as near: which is first, the rounding of float32 decides."""
CLEAR = 1e-3
"""Lead of what comes first in a self-test, so that it does on other processors."""
GALLERY = {"list": "gallery/list.json", "media": "gallery/media.npy", "texts": "gallery/texts.npy"}


class SideGraph(nn.Module):
    """One side of an alignment: the inputs of a batch one by one, a unit vector out."""

    def __init__(self, model: DualEncoder, names: list[str], *, media: bool) -> None:
        super().__init__()
        self.model, self._names, self._media = model, names, media

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Embed [batch, ...] to [batch, embed_dim]."""
        # A graph takes inputs in order, an encoder by name.
        inputs = [first] if second is None else [first, second]
        batch = dict(zip(self._names, inputs, strict=True))
        embed = self.model.embed_media if self._media else self.model.embed_texts
        return unit(embed(**batch))


@dataclass(frozen=True)
class Captioned:
    """Media of a split with their captions, each once."""

    media: list[int]
    """Numbers in the cache."""
    texts: list[int]
    pairs: NDArray[np.int64]
    """[pairs, 2]: place in `media` and in `texts` of what belongs together."""

    @classmethod
    def of(cls, cache: TrainingCache, split: str, source: str, count: int) -> "Captioned":
        """Up to `count` media, evenly spread over a split.

        Raises:
            ExportError: it has none with a caption.
        """
        captions: dict[int, list[int]] = {}
        for row in cache.by_medium(split, source):
            if len(row.captions):
                captions.setdefault(row.number, []).extend(row.captions.tolist())
        if not captions:
            raise ExportError(f"{cache.folder}: no {source} with a caption in split {split!r}")
        known = list(captions)
        media = [known[at] for at in spread(len(known), count)]
        # In the order in which they are met, without repeats: media may share captions.
        texts = list(dict.fromkeys(text for number in media for text in captions[number]))
        place = {text: at for at, text in enumerate(texts)}
        pairs = [(at, place[t]) for at, n in enumerate(media) for t in dict.fromkeys(captions[n])]
        return cls(media, texts, np.array(pairs, np.int64))


class AlignmentPlan(GraphPlan[AlignmentExportConfig, DualEncoder, DualEncoderSpec]):
    """What is special in the bundle of an alignment."""

    def __init__(
        self, source: BundleSource[DualEncoder, DualEncoderSpec], config: AlignmentExportConfig
    ) -> None:
        super().__init__(source, config)
        self.modality = self.stored.spec.inputs.modality
        if self.modality not in PACKAGES:  # `check` refuses graphs of it
            return
        self.packages = tuple(sorted({*PACKAGES[self.modality], *PACKAGES["text"]}))
        own = "plumbline/kinds/alignment/runtime.py"
        self.runtime = (own, *READERS[self.modality], *READERS["text"])
        what = {"image": "images", "audio": "clips"}.get(self.modality, self.modality)
        self.readme = Readme(
            title=f"A model that finds {what} by texts, and texts by {what}",
            answer=f"`media` names what lies nearest of the {what} in `gallery/`, with cosines and "
            "captions; asked by one of them, `texts` the nearest captions too. A request has "
            f"`text` or `{self.modality}`.",
            example={self.modality: FILE},
            graphs={
                "media": f"{what}, preprocessed, to unit vectors",
                "text": "token ids to unit vectors",
            },
            suffix=SUFFIXES[self.modality],
            files={
                "gallery/": f"{what} that can be found, their captions, and unit vectors of both"
            },
        )

    @override
    def check(self) -> None:
        model, inputs = self.stored.spec.model, self.stored.spec.inputs
        if model.text_encoder.takes_strings:
            raise ExportError(
                "its text encoder reads raw texts, which no graph does; set export.enabled to false"
            )
        if self.modality not in PACKAGES:
            raise ExportError(
                f"inputs.modality = {self.modality!r}: the bundle's scripts do not read it; set "
                "export.enabled to false"
            )
        if self.config.gallery_split not in self.cache.splits:
            raise ExportError(
                f"export.gallery_split = {self.config.gallery_split!r}: the dataset has only "
                f"{', '.join(self.cache.splits)}; set it to one of them"
            )
        if isinstance(inputs, ImageInputConfig):
            assert isinstance(model.image_encoder, ImageEncoderConfig)
            check_image_size(self.cache, model.image_encoder.image_size, inputs)

    @override
    def contract(self) -> dict[str, object]:
        spec = self.stored.spec
        return {
            "task": spec.kind,
            "input": input_contract(spec.inputs, self.cache, spec.model.media[1]),
            "text_input": text_contract(spec.special_ids, spec.max_text_tokens),
            "embed_dim": spec.model.embed_dim,
            "nearest": self.config.nearest,
            "gallery": GALLERY,
        }

    @override
    def description(self) -> dict[str, object]:
        spec = self.stored.spec
        return {"embed_dim": spec.model.embed_dim, "widths": spec.widths}

    @override
    def graphs(self) -> dict[str, GraphSpec]:
        spec, model = self.stored.spec, self.stored.model
        media, axes = medium_examples(spec.inputs, spec.model.media[1], spec.channels)
        texts, text_axes = ids_examples(spec.vocab_size)
        return {
            part: GraphSpec(
                SideGraph(model, list(inputs), media=part == "media").eval(),
                inputs,
                dynamic,
                [f"{part}_embeddings"],
            )
            for part, inputs, dynamic in (("media", media, axes), ("text", texts, text_axes))
        }

    @cached_property
    def _input(self) -> Input:
        spec = self.stored.spec
        image = spec.model.image_encoder
        size = image.image_size if image else None
        return build_input(spec.inputs, self.cache, image_size=size, as_asked=True)

    @cached_property
    def _gallery(self) -> Captioned:
        config, source = self.config, self.stored.spec.inputs.source
        return Captioned.of(self.cache, config.gallery_split, source, config.gallery_media)

    @cached_property
    def _index(self) -> tuple[Floats, Floats]:
        """The checkpoint's vectors of the gallery: [media, embed_dim], [texts, embed_dim]."""
        sides = self._gallery
        return (
            np.stack([self._embed_medium(self._medium_batch(n)) for n in sides.media]),
            np.stack([self._embed_text(self._text_batch(n)) for n in sides.texts]),
        )

    @override
    def store(self, out: Path) -> None:
        gallery = self._gallery
        (out / "gallery").mkdir()
        texts: list[list[int]] = [[] for _ in gallery.media]
        for medium, text in gallery.pairs.tolist():
            texts[medium].append(text)
        media = []
        # Files by their places, not by the numbers of the cache, which say how large that is.
        for at, number in enumerate(gallery.media):
            file = f"gallery/{at}{SUFFIXES[self.modality]}"
            data = encode_medium(self.cache, self.modality, number)
            assert isinstance(data, bytes)
            (out / file).write_bytes(data)
            media.append({"file": file, "texts": texts[at]})
        listed = {"media": media, "texts": [self.cache.text(number) for number in gallery.texts]}
        (out / GALLERY["list"]).write_text(dump_json(listed), encoding="utf-8")
        # The checkpoint's, not the graphs': what is found does not depend on the format that wrote.
        for name, vectors in zip(("media", "texts"), self._index, strict=True):
            np.save(out / GALLERY[name], vectors, allow_pickle=False)

    def _medium_batch(self, number: int) -> Batch:
        # Media one by one, as a bundle is asked; without draws nothing is augmented.
        return self._input.collate([self._input.fetch(number)], [number], None)

    def _text_batch(self, number: int) -> Batch:
        spec = self.stored.spec
        assert spec.special_ids is not None, "its text encoder takes ids"
        encoded = self.stored.text.encode(self.cache.text(number), add_special_tokens=False)
        ids = np.array(encoded.ids, np.int64)
        return collate_texts([ids], spec.special_ids, spec.max_text_tokens)

    def _embed_medium(self, batch: Batch) -> Floats:
        with torch.inference_mode():
            vector: Floats = unit(self.stored.model.embed_media(**batch))[0].numpy()
        return vector

    def _embed_text(self, batch: Batch) -> Floats:
        with torch.inference_mode():
            vector: Floats = unit(self.stored.model.embed_texts(**batch))[0].numpy()
        return vector

    def _request(self, number: int) -> Request:
        return {self.modality: encode_medium(self.cache, self.modality, number)}

    @override
    def measure(self, exported: Model) -> Parity:
        task = exported.task
        assert isinstance(task, RetrievalTask)
        source = self.stored.spec.inputs.source
        found = Captioned.of(self.cache, self.config.split, source, self.config.parity_samples)
        differences: list[float] = []  # of what both are given
        known: dict[str, list[Floats]] = {"media": [], "texts": []}
        got: dict[str, list[Floats]] = {"media": [], "texts": []}
        for number in tracked(found.media, "comparing media", len(found.media), "media"):
            batch = self._medium_batch(number)
            # Encoded again and read by the bundle's own script: its decoding is compared too.
            given = task.inputs(self._request(number))
            differences.append(max_difference([v.numpy() for v in batch.values()], given))
            known["media"].append(self._embed_medium(batch))
            got["media"].append(task.embed(self.modality, given))
        for number in tracked(found.texts, "comparing texts", len(found.texts), "texts"):
            batch = self._text_batch(number)
            given = task.inputs({"text": self.cache.text(number)})
            differences.append(max_difference([v.numpy() for v in batch.values()], given))
            known["texts"].append(self._embed_text(batch))
            got["texts"].append(task.embed("text", given))
        ours, theirs = ({k: np.stack(v) for k, v in side.items()} for side in (known, got))
        agreed = _agreements(ours, theirs)
        return Parity(
            samples=len(found.media) + len(found.texts),
            decision="retrieval",
            decisions=len(agreed),
            agreement=float(agreed.mean()),
            metric="recall_at_1",
            metric_known=_recall(ours, found),
            metric_found=_recall(theirs, found),
            max_input_difference=float(np.max(differences)),
            max_logits_difference=max_difference(list(ours.values()), list(theirs.values())),
            input_tolerance=SPECTROGRAM_TOLERANCE if self.modality == "audio" else 1e-6,
        )

    @override
    def selftest(self, exported: Model) -> list[SelftestSample]:
        media, texts = self._index
        gallery, samples = self._gallery, list[SelftestSample]()
        # Half of them by media, which find themselves and texts; half by texts, which find media.
        half = self.config.selftest_samples // 2  # of texts
        lead = np.minimum(_lead(media @ media.T), _lead(media @ texts.T))
        for at in _clearest(lead, self.config.selftest_samples - half):
            request = {**self._request(gallery.media[at]), "nearest": 1}
            found = {"texts": [self._text_answer(media[at])], "media": [self._answer(media[at])]}
            samples.append(SelftestSample(request, SUFFIXES[self.modality], found))
        for at in _clearest(_lead(texts @ media.T), half):
            request = {"text": self.cache.text(gallery.texts[at]), "nearest": 1}
            samples.append(SelftestSample(request, "", {"media": [self._answer(texts[at])]}))
        return samples

    def _answer(self, query: Floats) -> dict[str, object]:
        scores = self._index[0] @ query  # [media]
        at, gallery = int(scores.argmax()), self._gallery
        texts = gallery.pairs[gallery.pairs[:, 0] == at, 1].tolist()
        return {
            "file": f"gallery/{at}{SUFFIXES[self.modality]}",
            "score": float(scores[at]),
            "texts": [self.cache.text(gallery.texts[number]) for number in texts],
        }

    def _text_answer(self, query: Floats) -> dict[str, object]:
        scores = self._index[1] @ query  # [texts]
        at = int(scores.argmax())
        return {"text": self.cache.text(self._gallery.texts[at]), "score": float(scores[at])}

    @override
    def preprocessing(self) -> dict[str, Request]:
        turns = medium_turns(self.cache, self.modality)
        return {name: {self.modality: data} for name, data in turns.items()}


def _agreements(ours: dict[str, Floats], theirs: dict[str, Floats]) -> NDArray[np.bool_]:
    """Of every medium and text, whether both sides found the same nearest: [media + texts].

    One that is as near to the checkpoint as its own first, but for rounding, is the same.
    """
    found = []
    for asked, other in (("media", "texts"), ("texts", "media")):
        scores = ours[asked] @ ours[other].T  # [queries, candidates]: cosines of unit vectors
        chosen = (theirs[asked] @ theirs[other].T).argmax(axis=1)
        found.append(scores[np.arange(len(scores)), chosen] >= scores.max(axis=1) - TIED)
    return np.concatenate(found)  # media first


def _recall(side: dict[str, Floats], found: Captioned) -> float:
    """Mean recall@1 of both directions; 1 where any candidate would be right."""
    # Media that share a caption are each right for it, as in the evaluation.
    relation = relation_of_rows(found.pairs[:, 0], found.pairs[:, 1])
    report = retrieval_report(side["media"], side["texts"], relation, ks=(1,))
    return float(np.mean([1.0 if value is None else value for value in report.values()]))


def _lead(scores: Floats) -> Floats:
    """By how much the best of each row leads its second: [queries]; 2 where there is none."""
    if scores.shape[1] < 2:
        return np.full(len(scores), 2.0, np.float32)
    best = np.sort(scores, axis=1)[:, -2:]  # [queries, 2]: second and first
    lead: Floats = best[:, 1] - best[:, 0]
    return lead


def _clearest(lead: Floats, count: int) -> list[int]:
    """Up to `count` queries whose first is clear, evenly spread; where none is, the clearest."""
    # Places in the gallery, in its order.
    clear = np.flatnonzero(lead >= CLEAR)
    if not len(clear):
        clear = np.argsort(-lead, kind="stable")[:count]
    return [int(clear[at]) for at in spread(len(clear), count)]


PLAN = AlignmentPlan
