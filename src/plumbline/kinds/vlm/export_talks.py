"""The bundle of a vision-language model of conversations."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from plumbline.data.png import encode_png
from plumbline.data.turns import as_parts
from plumbline.export.graphs import GraphSpec, decoder_sizes
from plumbline.export.media import check_image_size, image_contract, image_turns
from plumbline.export.parity import Parity, common_prefix, larger, until
from plumbline.export.plan import (
    FILE,
    READERS,
    GraphPlan,
    Readme,
    Request,
    SelftestSample,
    max_difference,
    spread,
)
from plumbline.export.runtime.model import Model
from plumbline.kinds.language.export import CHAT_RUNTIME
from plumbline.kinds.vlm.evaluate_talks import Question, Seen, read_questions
from plumbline.kinds.vlm.features import bundle_pixels
from plumbline.kinds.vlm.graphs import vlm_graphs
from plumbline.kinds.vlm.model import Vlm, VlmSpec
from plumbline.kinds.vlm.settings import VlmExportConfig
from plumbline.kinds.vlm.talk_runtime import TalkTask
from plumbline.kinds.vlm.talks import Talk, answer_logits, answer_talks, make_prompt
from plumbline.metrics.text_overlap import normalize_answer
from plumbline.tracking.progress import tracked

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """What the checkpoint makes of a conversation."""

    ids: list[int]
    """Up to where the answer begins, with all tokens of each image."""
    answer: list[int]
    """Token ids, with what ends it unless cut off at the longest length."""
    text: str
    logits: Floats
    """[answer, vocab]: the scores that its tokens were chosen by."""


class TalkPlan(GraphPlan[VlmExportConfig, Vlm, VlmSpec]):
    """What is special in it."""

    packages = ("pillow", "tokenizers", "jinja2")
    runtime = (
        "plumbline/kinds/vlm/talk_runtime.py",
        "plumbline/kinds/language/runtime.py",
        *CHAT_RUNTIME,
        *READERS["image"],
        *READERS["text"],
    )
    readme = Readme(
        title="A model that answers in conversations about images",
        answer="It holds the answer, its confidence (the product of the probabilities of its "
        "tokens), and whether it came to its end or was cut off (`finish`). `messages`, a list of "
        "turns with `role` and `content`, stands for `question`: parts of a content of type "
        "`image` are the places of `images`, in their order.",
        example={"images": [FILE], "question": "what is in the picture?"},
        graphs={
            "vision": "image to embeddings",
            "decoder": "embeddings and tokens to logits, with a key-value cache",
        },
        suffix=".png",
    )

    @override
    def check(self) -> None:
        spec = self.stored.spec
        check_image_size(self.cache, spec.image_encoder.image_size, spec.images)

    @override
    def contract(self) -> dict[str, object]:
        spec, model = self.stored.spec, self.stored.model
        assert spec.chat is not None
        return {
            "task": TalkTask.name,
            "input": image_contract(spec.image_encoder.image_size, spec.images),
            "text": {
                "special_ids": spec.special_ids.model_dump(),
                "max_positions": int(model.decoder.config.max_position_embeddings),
                "max_new_tokens": self.config.max_new_tokens,
                "decoding": "greedy",
            },
            "decoder": self.description(),
            "chat": spec.chat.model_dump(),
        }

    @override
    def description(self) -> dict[str, object]:
        model = self.stored.model
        return {**asdict(decoder_sizes(model.decoder)), "image_tokens": model.image_tokens}

    @override
    def graphs(self) -> dict[str, GraphSpec]:
        return vlm_graphs(self.stored.model, self.stored.spec)

    @cached_property
    def _questions(self) -> list[Question]:
        """All of the split: those with images first, so that a few have some."""
        found = list(read_questions(self.stored, self.cache, self.config.split))
        return sorted(found, key=lambda question: not question.known.images)

    def _samples(self, count: int) -> list[Question]:
        return [self._questions[at] for at in spread(len(self._questions), count)]

    def _request(self, question: Question) -> Request:
        # Encoded again: the bundle's script decodes, as it will for whoever asks it.
        images = [encode_png(self.cache.images[number]) for number in question.known.images]
        messages = [as_parts(turn) for turn in question.turns]
        return {"images": images, "messages": messages} if images else {"messages": messages}

    def _refer(self, questions: list[Question]) -> list[Reference]:
        """Answer as evaluation does, on the CPU."""
        stored, longest = self.stored, self.config.max_new_tokens
        model, eos = stored.model, stored.spec.special_ids.eos
        seen = Seen(stored, self.cache, questions, torch.device("cpu"))
        found: list[Reference] = []
        for question in questions:
            ids = make_prompt(stored.spec, stored.text, model.image_tokens, question.turns)
            images = seen.find(question.known.images)
            room = min(longest, int(model.decoder.config.max_position_embeddings) - len(ids))
            (said,) = answer_talks(
                model, seen.features, [Talk(ids, images)], eos=eos, max_new_tokens=room
            )
            # `answer_talks` takes the end off; whoever stopped before the limit had said it.
            ended = said if len(said) == room else [*said, eos]
            whole = Talk([*ids, *ended], images)
            logits = answer_logits(model, seen.features, [whole], len(ended))[0]
            found.append(Reference(ids, ended, stored.text.decode(said), logits.numpy()))
        return found

    @cached_property
    def _references(self) -> list[Reference]:
        return self._refer(self._samples(self.config.parity_samples))

    @override
    def measure(self, exported: Model) -> Parity:
        task = exported.task
        assert isinstance(task, TalkTask)
        questions, eos = self._samples(self.config.parity_samples), self.stored.spec.special_ids.eos
        worst, equal, total, inputs = 0.0, 0, 0, 0.0
        texts: list[str] = []
        pairs = list(zip(questions, self._references, strict=True))
        for question, reference in tracked(pairs, "comparing", len(pairs), "samples"):
            request, expected = self._request(question), reference.answer
            inputs = larger(inputs, self._input_difference(task, request, question))
            logits = _greedy_logits(task, request, eos, len(expected))  # [steps, vocab]
            got = until(logits.argmax(axis=-1).tolist(), eos)
            texts.append(task.text.decode([token for token in got if token != eos]))
            common = common_prefix(expected, got)
            equal, total = equal + common, total + len(expected)
            # Beyond the first different token the two see different texts.
            compared = min(common + 1, len(expected), len(got))
            difference = np.abs(reference.logits[:compared] - logits[:compared])
            worst = larger(worst, difference.max())
        # Of whole answers, as figures are: a token that differs changes few of them.
        known = [reference.text for reference in self._references]
        return Parity(
            samples=len(questions),
            decision="token",
            decisions=total,
            agreement=equal / total,
            metric="exact_match",
            metric_known=_match(known, questions),
            metric_found=_match(texts, questions),
            max_input_difference=inputs,
            max_logits_difference=worst,
        )

    def _input_difference(self, task: TalkTask, request: Request, question: Question) -> float:
        """Of what the bundle's script makes of a request from the pipeline's own."""
        *pixels, ids = task.inputs(request)
        numbers = question.known.images
        known = [np.array([make_prompt(self.stored.spec, self.stored.text, 1, question.turns)])]
        if numbers:
            known.insert(0, self._pixels(numbers))
        return max_difference(known, [*pixels, ids])

    def _pixels(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        spec = self.stored.spec
        return bundle_pixels(self.cache.images[numbers], spec.image_encoder.image_size, spec.images)

    @override
    def selftest(self, exported: Model) -> list[SelftestSample]:
        questions = self._samples(self.config.selftest_samples)
        return [
            SelftestSample(self._request(question), ".png", {"answer": reference.text})
            for question, reference in zip(questions, self._refer(questions), strict=True)
        ]

    @override
    def preprocessing(self) -> dict[str, Request]:
        # An image that is asked about: the first of the cache may be of another split.
        first = next((q.known.images[0] for q in self._questions if q.known.images), None)
        if first is None:
            return {}
        turns = image_turns(self.cache.images[first])
        return {name: {"images": [png], "question": "a"} for name, png in turns.items()}


def _greedy_logits(task: TalkTask, request: Request, eos: int, limit: int) -> Floats:
    """Logits [steps, vocab] of the bundle until its answer has ended."""
    images = request.get("images", [])
    assert isinstance(images, list)
    *_, ids = task.inputs(request)
    decoding, logits = task.begin(images, ids[0].tolist())
    steps = [logits[0]]  # [vocab] each
    while len(steps) < limit and steps[-1].argmax() != eos:
        steps.append(decoding.step(np.array([steps[-1].argmax()]))[0])
    return np.stack(steps)


def _match(texts: list[str], questions: list[Question]) -> float:
    hits = [
        normalize_answer(text) == normalize_answer(question.answer)
        for text, question in zip(texts, questions, strict=True)
    ]
    return sum(hits) / len(hits)
