"""How well images or clips and captions find each other."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from plumbline.batch import Batch
from plumbline.errors import ConfigError, DataError
from plumbline.evaluation.result import Evaluation, EvaluationJob, Row
from plumbline.kinds.alignment.model import StoredDualEncoder
from plumbline.kinds.alignment.settings import AlignmentEvaluationConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import Input, build_input
from plumbline.loading.text_batches import collate_texts
from plumbline.metrics.classification import accuracy
from plumbline.metrics.retrieval import (
    class_embeddings,
    relation_of_rows,
    retrieval_report,
    zero_shot,
)
from plumbline.models.device import to_device
from plumbline.tracking.progress import tracked

Floats = NDArray[np.float32]


def evaluate(job: EvaluationJob) -> Evaluation:
    """Embed a split and measure recall@k both ways; every caption of a medium is a positive.

    Queries and candidates are the distinct media and captions: one that is there again is the same
    candidate. Media with the same caption are each a positive of it. With prompt templates the
    captions of the dataset's classes also classify the media.

    Raises:
        DataError: the split has no captioned image or clip.
        ConfigError: templates are given, but the dataset has no labels.

    Returns:
        Figures; embeddings [media, embed_dim] and [texts, embed_dim] of unit length, beside the
        numbers of media and texts in the cache; examples.
    """
    stored, cache, config = job.stored, job.cache, job.config
    assert isinstance(config, AlignmentEvaluationConfig)
    stored.model.to(job.device).eval()
    modality = stored.spec.inputs.modality
    # A medium without a caption has no positive and could never be found.
    rows = [r for r in cache.by_medium(config.split, stored.spec.inputs.source) if len(r.captions)]
    if not rows:
        raise DataError(f"{cache.folder}: no {modality} with a caption in split {config.split!r}")
    embedder = Embedder(stored, cache, job.device, config.batch_size)
    # [pairs]: the medium and the caption of each pair, by the numbers of the cache
    of_rows = np.concatenate([np.full(len(r.captions), r.number, np.int32) for r in rows])
    media, medium_of_pair = np.unique(of_rows, return_inverse=True)
    texts, text_of_pair = np.unique(np.concatenate([r.captions for r in rows]), return_inverse=True)
    media_embeddings = embedder.embed_media(media)
    text_embeddings = embedder.embed_texts([cache.text(int(number)) for number in texts])
    report = retrieval_report(
        media_embeddings,
        text_embeddings,
        relation_of_rows(medium_of_pair, text_of_pair),
        ks=tuple(config.ks),
        widths=tuple(stored.spec.widths),
        interval_seed=0,
    )
    lengths, cut = cache.text_lengths()[texts], stored.spec.max_text_tokens
    cache.say_cut(config.split, lengths, cut, "captions", "task.max_text_tokens")
    metrics: dict[str, float | None] = {
        # `retrieval_report` calls one side images, whatever the medium is.
        name.replace("image", modality): value
        for name, value in report.items()
    }
    shown, pairs = config.examples, np.stack([medium_of_pair, text_of_pair], axis=1)
    metrics[f"{modality}s"] = float(len(media))
    metrics["texts"] = float(len(texts))
    if config.zero_shot:
        metrics["zero_shot_accuracy"] = _zero_shot(embedder, cache, config)
    # [shown, texts]: cosines, since both sides are of unit length
    scores = media_embeddings[:shown] @ text_embeddings.T
    examples = _examples(cache, media[:shown], texts, scores, pairs)
    arrays = {
        "media": media,
        "texts": texts,
        "media_embeddings": media_embeddings,
        "text_embeddings": text_embeddings,
    }
    return Evaluation(metrics, arrays=arrays, examples=examples)


class Embedder:
    """Maps media of a cache and texts to unit vectors."""

    def __init__(
        self,
        stored: StoredDualEncoder,
        cache: TrainingCache,
        device: torch.device,
        batch_size: int,
    ) -> None:
        """Take a model that is on `device` and evaluating."""
        self._stored, self._device, self._size = stored, device, batch_size
        self.source = stored.spec.inputs.source
        encoder = stored.spec.model.image_encoder
        size = encoder.image_size if encoder else None
        self._inputs: Input = build_input(stored.spec.inputs, cache, image_size=size)

    def embed_media(self, numbers: NDArray[np.int32]) -> Floats:
        """Embed media by their numbers: [media, embed_dim]."""
        blocks = []
        parts = np.split(numbers, range(self._size, len(numbers), self._size))
        for part in tracked(parts, "embedding media", len(numbers), "media", len):
            block = [int(number) for number in part]
            batch = self._inputs.collate_raw([self._inputs.fetch(i) for i in block], block, None)
            with torch.inference_mode():
                blocks.append(self._unit(self._stored.model.embed_media(**self._move(batch))))
        return np.concatenate(blocks)

    def embed_texts(self, texts: list[str]) -> Floats:
        """Embed raw texts: [texts, embed_dim]."""
        blocks = []
        parts = [texts[at : at + self._size] for at in range(0, len(texts), self._size)]
        for part in tracked(parts, "embedding texts", len(texts), "texts", len):
            batch = self._collate_texts(part)
            with torch.inference_mode():
                blocks.append(self._unit(self._stored.model.embed_texts(**self._move(batch))))
        return np.concatenate(blocks)

    def _collate_texts(self, texts: list[str]) -> Batch:
        spec = self._stored.spec
        if spec.model.text_encoder.takes_strings or spec.special_ids is None:
            return {"texts": texts}
        encoded = self._stored.text.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.array(one.ids, np.int64) for one in encoded]
        return collate_texts(ids, spec.special_ids, spec.max_text_tokens)

    def _move(self, batch: Batch) -> Batch:
        return to_device(batch, self._device)

    def _unit(self, embedded: torch.Tensor) -> Floats:
        unit: Floats = functional.normalize(embedded, dim=-1).float().cpu().numpy()
        return unit


def _zero_shot(
    embedder: Embedder, cache: TrainingCache, config: AlignmentEvaluationConfig
) -> float | None:
    """Accuracy of the class whose prompts lie nearest, over all labelled rows of the split.

    None where all have one label.
    """
    classes = cache.classes()
    if not classes:
        raise ConfigError(
            f"evaluate.zero_shot: {cache.folder} has no labels to put into the templates; set it "
            "to []"
        )
    # A template has room for one label: of several parts the first is measured.
    part, names = next(iter(classes.items()))
    prompts = [template.replace("{label}", name) for name in names for template in config.zero_shot]
    # [classes, templates, embed_dim]
    texts = embedder.embed_texts(prompts).reshape(len(names), len(config.zero_shot), -1)
    rows = cache.rows(config.split)
    source = embedder.source
    number = cache.facts["parts"].index(part)
    chosen = (rows["label"] >= 0) & (rows[source] >= 0) & (rows["part"] == number)
    labels = rows["label"][chosen]
    # A constant answer would always be right.
    if len(np.unique(labels)) < 2:
        return None
    # A medium that several rows label is embedded once.
    media, medium_of_row = np.unique(rows[source][chosen], return_inverse=True)
    predicted = zero_shot(embedder.embed_media(media), class_embeddings(texts))
    return accuracy(predicted[medium_of_row], labels)


def _examples(
    cache: TrainingCache,
    media: NDArray[np.int32],
    texts: NDArray[np.int32],
    scores: Floats,
    pairs: NDArray[np.intp],
) -> list[Row]:
    """What is found for the first media, and which of it is right.

    Args:
        cache: of the dataset.
        media: [shown] numbers.
        texts: [texts] numbers.
        scores: [shown, texts].
        pairs: [pairs, 2]: position of a medium and of a caption of it.
    """
    right = [set(pairs[pairs[:, 0] == at, 1].tolist()) for at in range(len(scores))]
    return [
        {"medium": int(number), "found": _best_texts(cache, texts, score, known)}
        for number, score, known in zip(media, scores, right, strict=True)
    ]


def _best_texts(
    cache: TrainingCache, texts: NDArray[np.int32], scores: Floats, right: set[int]
) -> list[Row]:
    """The five texts that score most for a medium."""
    # Of equal scores the lower number comes first, on any machine.
    best = np.argsort(-scores, kind="stable")[:5].tolist()
    return [
        {
            "text": cache.text(int(texts[i])),
            "score": round(float(scores[i]), 4),
            "right": i in right,
        }
        for i in best
    ]
