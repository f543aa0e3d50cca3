"""How well an exported model agrees with its checkpoint; a disagreement is an error."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.errors import ExportError
from plumbline.evaluation.generation import generate_answers
from plumbline.export.config import ExportConfig
from plumbline.export.samples import PromptSample
from plumbline.export.selftest import encode_png
from plumbline.export.templates.inference import Model
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.transforms import normalize_images
from plumbline.metrics.text_overlap import normalize_answer
from plumbline.models.features import encode_images
from plumbline.models.stored import StoredVlm

BATCH_PROMPTS = 64

Ids = list[int]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """Agreement of one format with the checkpoint."""

    samples: int
    tokens: int
    """Tokens that the checkpoint generated, ends of answers among them."""
    max_pixel_difference: float
    max_logits_difference: float
    token_agreement: float
    """Share of those tokens that the exported model generated too, at the same place."""
    exact_match_difference: float


@dataclass(frozen=True)
class Reference:
    """What the checkpoint makes of the samples."""

    answers: list[Ids]
    """Token ids, with eos unless cut off at the longest length."""
    texts: list[str]
    logits: list[Floats]
    """[answer, vocab] of each sample: the scores that its tokens were chosen by."""


def reference_answers(
    stored: StoredVlm, cache: TrainingCache, samples: Sequence[PromptSample], max_new_tokens: int
) -> Reference:
    """Answer the samples as evaluation does, on the CPU."""
    spec = stored.spec
    images = cache.images[[sample.image for sample in samples]]
    features = encode_images(
        stored.model.image_encoder,
        images,
        spec.normalization,
        spec.image_encoder.image_size,
        torch.device("cpu"),
    )
    answers = generate_answers(
        stored.model,
        features,
        range(len(samples)),
        [sample.ids for sample in samples],
        bos=spec.special_ids.bos,
        eos=spec.special_ids.eos,
        max_new_tokens=max_new_tokens,
        batch_size=BATCH_PROMPTS,
    )
    eos = spec.special_ids.eos
    ended = [a if len(a) == max_new_tokens else [*a, eos] for a in answers]
    logits = [
        _reference_logits(stored, feature, [*sample.ids, spec.special_ids.bos], answer)
        for feature, sample, answer in zip(features, samples, ended, strict=True)
    ]
    return Reference(ended, stored.text.decode_batch(answers), logits)


def measure_parity(
    exported: Model,
    stored: StoredVlm,
    cache: TrainingCache,
    samples: Sequence[PromptSample],
    reference: Reference,
) -> Parity:
    """Compare pixels, logits along the greedy path, tokens and exact match on the samples.

    The exported side is the bundle's own script, from an encoded image and a text to an answer.
    """
    eos, limit = stored.spec.special_ids.eos, exported.contract["text"]["max_new_tokens"]
    prompts = [exported.prompt_ids(sample.text) for sample in samples]
    pngs = [encode_png(cache.images[sample.image]) for sample in samples]
    pixels = np.stack([exported.preprocessor.pixel_values(png) for png in pngs])
    worst, equal, total, texts = 0.0, 0, 0, [""] * len(samples)
    for rows in _equal_batches(prompts):
        embeds = exported.embed(pixels[rows])
        ids = np.array([prompts[row] for row in rows], np.int64)
        logits = _greedy_logits(exported, embeds, ids, eos, limit)
        for at, row in enumerate(rows):
            expected = reference.answers[row]
            got = _until(logits[:, at].argmax(axis=-1).tolist(), eos)
            texts[row] = exported.text([token for token in got if token != eos])
            common = _common_prefix(expected, got)
            equal, total = equal + common, total + len(expected)
            # Beyond the first different token the two see different texts.
            compared = min(common + 1, len(expected), len(got))
            difference = np.abs(reference.logits[row][:compared] - logits[:compared, at])
            worst = max(worst, float(difference.max()))
    return Parity(
        samples=len(samples),
        tokens=total,
        max_pixel_difference=_pixel_difference(stored, cache, samples, pixels),
        max_logits_difference=worst,
        token_agreement=equal / total,
        exact_match_difference=abs(_match(texts, samples) - _match(reference.texts, samples)),
    )


def _greedy_logits(
    exported: Model, embeds: Floats, ids: NDArray[np.int64], eos: int, limit: int
) -> Floats:
    """Logits [steps, batch, vocab] until every answer of the batch has ended."""
    decoding = exported.decoding(len(ids))
    steps = [decoding.prefill(embeds, ids)]
    ended = steps[-1].argmax(axis=-1) == eos
    while len(steps) < limit and not ended.all():
        steps.append(decoding.step(steps[-1].argmax(axis=-1)))
        ended |= steps[-1].argmax(axis=-1) == eos
    return np.stack(steps)


@torch.inference_mode()
def _reference_logits(
    stored: StoredVlm, features: torch.Tensor, prompt: Ids, answer: Ids
) -> Floats:
    """Logits [answer, vocab] of the checkpoint over a whole sequence, without a cache."""
    model = stored.model
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    text = model.decoder.get_input_embeddings()(ids)
    inputs = torch.cat([model.embed_image(features[None]).to(text.dtype), text], dim=1)
    hidden = model.decoder.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    logits: Floats = model.logits(hidden[0, -len(answer) :]).numpy()
    return logits


def _equal_batches(prompts: Sequence[Ids]) -> Iterator[list[int]]:
    """Indices of prompts of equal length, at most `BATCH_PROMPTS` together."""
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    for rows in by_length.values():
        for at in range(0, len(rows), BATCH_PROMPTS):
            yield rows[at : at + BATCH_PROMPTS]


def _until(ids: Ids, eos: int) -> Ids:
    return ids[: ids.index(eos) + 1] if eos in ids else ids


def _common_prefix(one: Ids, other: Ids) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _pixel_difference(
    stored: StoredVlm, cache: TrainingCache, samples: Sequence[PromptSample], pixels: Floats
) -> float:
    images = torch.from_numpy(cache.images[[sample.image for sample in samples]])
    known = normalize_images(images.permute(0, 3, 1, 2), stored.spec.normalization).numpy()
    return float(np.abs(known - pixels).max())


def _match(texts: Sequence[str], samples: Sequence[PromptSample]) -> float:
    hits = [
        normalize_answer(text) in {normalize_answer(known) for known in sample.references}
        for text, sample in zip(texts, samples, strict=True)
    ]
    return sum(hits) / len(hits)


MAX_PIXEL_DIFFERENCE = 1e-6
"""None is expected; a processor without fused multiply-add rounds the training side twice."""


def check_parity(name: str, parity: Parity, config: ExportConfig) -> None:
    """Compare the figures of a format with what the settings allow.

    Raises:
        ExportError: a figure is beyond its limit, or not a number.
    """
    limits = {
        "max_pixel_difference": MAX_PIXEL_DIFFERENCE,
        "max_logits_difference": config.max_logits_difference,
        "exact_match_difference": config.max_metric_difference,
    }
    for field, limit in limits.items():
        if not (value := getattr(parity, field)) <= limit:
            raise ExportError(f"{name}: {field} is {value:.3g}, allowed is {limit:g}")
    if parity.token_agreement < config.min_token_agreement:
        raise ExportError(
            f"{name}: token_agreement is {parity.token_agreement:.4f}, "
            f"at least {config.min_token_agreement:g} is required"
        )
