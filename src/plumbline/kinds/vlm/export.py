"""The bundle of a vision-language model: image to embeddings, then a decoder with a cache."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from plumbline.data.png import encode_png
from plumbline.errors import ExportError
from plumbline.export.graphs import GraphSpec, decoder_sizes
from plumbline.export.media import check_image_size, image_contract, image_turns
from plumbline.export.parity import Parity, common_prefix, larger, until
from plumbline.export.plan import (
    FILE,
    READERS,
    BundleSource,
    GraphPlan,
    Readme,
    Request,
    SelftestSample,
    spread,
)
from plumbline.export.runtime.model import Model
from plumbline.kinds.vlm.export_talks import TalkPlan
from plumbline.kinds.vlm.features import bundle_pixels, encode_images
from plumbline.kinds.vlm.generation import generate_answers
from plumbline.kinds.vlm.graphs import vlm_graphs
from plumbline.kinds.vlm.model import StoredVlm, Vlm, VlmSpec
from plumbline.kinds.vlm.runtime import VlmTask
from plumbline.kinds.vlm.settings import VlmExportConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.metrics.text_overlap import normalize_answer
from plumbline.tracking.progress import tracked

BATCH_PROMPTS = 64

Ids = list[int]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PromptSample:
    """One prompt about one image."""

    image: int
    """Number of the image in the cache."""
    text: str
    ids: list[int]
    """Token ids of the text as evaluation takes them, cut, without bos."""
    references: list[str]


def choose_samples(
    cache: TrainingCache, stored: StoredVlm, split: str, count: int
) -> list[PromptSample]:
    """Take up to `count` questions and caption prompts, evenly spread over a split.

    Raises:
        DataError: there is no such split.
        ExportError: it has neither questions nor captions.
    """
    prompt = stored.spec.caption_prompt
    prompt_ids = stored.text.encode(prompt, add_special_tokens=False).ids
    limit = stored.spec.max_text_tokens
    # Both kinds of prompt, image by image, so that what is spread over them has both.
    every: list[PromptSample] = []
    for row in cache.by_medium(split, "image"):
        for question, answer in row.questions.tolist():
            ids = cache.ids(question)[:limit].tolist()
            known = [cache.text(answer)]
            every.append(PromptSample(row.number, cache.text(question), ids, known))
        if len(row.captions) and stored.spec.captions:
            known = [cache.text(int(number)) for number in row.captions]
            every.append(PromptSample(row.number, prompt, prompt_ids[:limit], known))
    if not every:
        raise ExportError(f"{cache.folder}: no question and no caption in split {split!r}")
    return [every[i] for i in spread(len(every), count)]


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
        spec.images.settled,  # as the bundle does to the same images
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
    # `generate_answers` takes eos off; whoever stopped before the limit had said it.
    ended = [a if len(a) == max_new_tokens else [*a, eos] for a in answers]
    logits = [
        _reference_logits(stored, feature, [*sample.ids, spec.special_ids.bos], answer)
        for feature, sample, answer in zip(features, samples, ended, strict=True)
    ]
    return Reference(ended, stored.text.decode_batch(answers), logits)


@torch.inference_mode()
def _reference_logits(
    stored: StoredVlm, features: torch.Tensor, prompt: Ids, answer: Ids
) -> Floats:
    """Logits [answer, vocab] of the checkpoint over a whole sequence, without a cache."""
    model = stored.model
    # The last token is predicted and never seen.
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    text = model.decoder.get_input_embeddings()(ids)
    inputs = torch.cat([model.embed_image(features[None]).to(text.dtype), text], dim=1)
    # Without a cache: so the bundle's own is part of what is compared.
    hidden = model.decoder.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    logits: Floats = model.logits(hidden[0, -len(answer) :]).numpy()
    return logits


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
    task = exported.task
    assert isinstance(task, VlmTask)
    eos, limit = stored.spec.special_ids.eos, task.contract["text"]["max_new_tokens"]
    prompts = [task.prompt_ids(sample.text) for sample in samples]
    # Encoded again: the bundle's script decodes, as it will for whoever asks it.
    pngs = [encode_png(cache.images[sample.image]) for sample in samples]
    pixels = np.stack([task.preprocessor.pixel_values(png) for png in pngs])
    worst, equal, total, texts = 0.0, 0, 0, [""] * len(samples)
    for rows in tracked(_equal_batches(prompts), "comparing", len(samples), "samples", len):
        embeds = task.embed(pixels[rows])
        ids = np.array([prompts[row] for row in rows], np.int64)
        logits = _greedy_logits(task, embeds, ids, eos, limit)  # [steps, batch, vocab]
        for at, row in enumerate(rows):
            expected = reference.answers[row]
            # An answer that ended early goes on with its batch: what it says then is cut.
            got = until(logits[:, at].argmax(axis=-1).tolist(), eos)
            texts[row] = task.text.decode([token for token in got if token != eos])
            common = common_prefix(expected, got)
            equal, total = equal + common, total + len(expected)
            # Beyond the first different token the two see different texts.
            compared = min(common + 1, len(expected), len(got))
            difference = np.abs(reference.logits[row][:compared] - logits[:compared, at])
            worst = larger(worst, difference.max())
    return Parity(
        samples=len(samples),
        decision="token",
        decisions=total,
        agreement=equal / total,
        metric="exact_match",
        metric_known=_match(reference.texts, samples, stored.spec.caption_prompt),
        metric_found=_match(texts, samples, stored.spec.caption_prompt),
        max_input_difference=_pixel_difference(stored, cache, samples, pixels),
        max_logits_difference=worst,
    )


def _greedy_logits(
    task: VlmTask, embeds: Floats, ids: NDArray[np.int64], eos: int, limit: int
) -> Floats:
    """Logits [steps, batch, vocab] until every answer of the batch has ended."""
    decoding = task.decoding(len(ids))
    steps = [decoding.prefill(ids, embeds)]
    ended = steps[-1].argmax(axis=-1) == eos
    while len(steps) < limit and not ended.all():
        steps.append(decoding.step(steps[-1].argmax(axis=-1)))
        ended |= steps[-1].argmax(axis=-1) == eos
    return np.stack(steps)


def _equal_batches(prompts: Sequence[Ids]) -> Iterator[list[int]]:
    """Indices of prompts of equal length, at most `BATCH_PROMPTS` together."""
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    for rows in by_length.values():
        for at in range(0, len(rows), BATCH_PROMPTS):
            yield rows[at : at + BATCH_PROMPTS]


def _pixel_difference(
    stored: StoredVlm, cache: TrainingCache, samples: Sequence[PromptSample], pixels: Floats
) -> float:
    images = cache.images[[sample.image for sample in samples]]
    known = bundle_pixels(images, stored.spec.image_encoder.image_size, stored.spec.images)
    return float(np.abs(known - pixels).max())


def _match(texts: Sequence[str], samples: Sequence[PromptSample], caption_prompt: str) -> float:
    """Exact match of the questions, as evaluation has it; of captions where nothing is asked."""
    pairs = list(zip(texts, samples, strict=True))
    asked = [pair for pair in pairs if pair[1].text != caption_prompt]
    hits = [
        normalize_answer(text) in {normalize_answer(known) for known in sample.references}
        for text, sample in asked or pairs
    ]
    return sum(hits) / len(hits)


class VlmPlan(GraphPlan[VlmExportConfig, Vlm, VlmSpec]):
    """What is special in the bundle of a vision-language model."""

    packages = ("pillow", "tokenizers")
    runtime = (
        "plumbline/kinds/vlm/runtime.py",
        "plumbline/kinds/language/runtime.py",
        *READERS["image"],
        *READERS["text"],
    )
    readme = Readme(
        title="A model that answers questions about images",
        answer="It holds the answer, its confidence (the product of the probabilities of its "
        "tokens), and whether it came to its end or was cut off (`finish`); without a question "
        "(`--describe`) the image is described.",
        example={"image": FILE, "question": "what is in the picture?"},
        graphs={
            "vision": "image to embeddings",
            "decoder": "embeddings and tokens to logits, with a key-value cache",
        },
        suffix=".png",
    )
    _reference: Reference | None = None

    @override
    def check(self) -> None:
        spec = self.stored.spec
        check_image_size(self.cache, spec.image_encoder.image_size, spec.images)

    @override
    def contract(self) -> dict[str, object]:
        spec = self.stored.spec
        return {
            "task": "vlm",
            "input": image_contract(spec.image_encoder.image_size, spec.images),
            "text": {
                "special_ids": spec.special_ids.model_dump(),
                "caption_prompt": spec.caption_prompt,
                "max_prompt_tokens": spec.max_text_tokens,
                "max_new_tokens": self.config.max_new_tokens,
                "decoding": "greedy",
            },
            "decoder": self.description(),
        }

    @override
    def description(self) -> dict[str, object]:
        model = self.stored.model
        return {**asdict(decoder_sizes(model.decoder)), "image_tokens": model.image_tokens}

    @override
    def graphs(self) -> dict[str, GraphSpec]:
        return vlm_graphs(self.stored.model, self.stored.spec)

    def _samples(self, count: int) -> list[PromptSample]:
        return choose_samples(self.cache, self.stored, self.config.split, count)

    @override
    def measure(self, exported: Model) -> Parity:
        samples = self._samples(self.config.parity_samples)
        if self._reference is None:
            self._reference = reference_answers(
                self.stored, self.cache, samples, self.config.max_new_tokens
            )
        return measure_parity(exported, self.stored, self.cache, samples, self._reference)

    @override
    def selftest(self, exported: Model) -> list[SelftestSample]:
        samples = self._samples(self.config.selftest_samples)
        answers = reference_answers(
            self.stored, self.cache, samples, self.config.max_new_tokens
        ).texts
        return [
            SelftestSample(
                {"image": encode_png(self.cache.images[sample.image]), "question": sample.text},
                ".png",
                {"answer": answer},
            )
            for sample, answer in zip(samples, answers, strict=True)
        ]

    @override
    def preprocessing(self) -> dict[str, Request]:
        # An image that is asked about: the first of the cache may be of another split.
        first = self._samples(1)[0].image
        return {name: {"image": png} for name, png in image_turns(self.cache.images[first]).items()}


def plan_of(
    source: BundleSource[Vlm, VlmSpec], config: VlmExportConfig
) -> GraphPlan[VlmExportConfig, Vlm, VlmSpec]:
    """What is special in a bundle, by what the model was trained on."""
    plan = TalkPlan if source.stored.spec.chat else VlmPlan
    return plan(source, config)


PLAN = plan_of
