"""How well a vision-language model answers in conversations that show images."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from plumbline.data.turns import Turn, show_places
from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.kinds.vlm.answers import answer_figures, by_prompt
from plumbline.kinds.vlm.attention import Asked, attention_arrays
from plumbline.kinds.vlm.features import BATCH_IMAGES, encode_images
from plumbline.kinds.vlm.generation import Written
from plumbline.kinds.vlm.model import StoredVlm
from plumbline.kinds.vlm.settings import VlmEvaluationConfig
from plumbline.kinds.vlm.talk_rows import TalkSource
from plumbline.kinds.vlm.talks import Talk, make_prompt, talk_nll, write_talks
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import left_to_resize
from plumbline.metrics.text_overlap import normalize_answer, question_only_baseline


@dataclass(frozen=True)
class Prediction:
    """The last answer of one conversation, and what came out."""

    kind: str
    sample_id: str
    prompt: str
    """What the user says last, `<image>` in the place of an image."""
    references: list[str]
    prediction: str
    correct: bool
    confidence: float
    """As `plumbline.kinds.vlm.generation.Written` has it."""


@dataclass(frozen=True)
class Question:
    """A conversation of a split, as far as it is read, up to its last answer."""

    sample_id: str
    turns: list[Turn]
    """Before the answer."""
    answer: str
    known: Talk
    """With the answer; its images are numbers in the cache."""
    answered: int
    """Tokens of the answer, what ends it among them."""

    @property
    def asked(self) -> str:
        """What the user says last."""
        return show_places(self.turns[-1])


def read_questions(stored: StoredVlm, cache: TrainingCache, split: str) -> Iterator[Question]:
    """The last answers of the conversations of a split, as training reads these.

    Raises:
        DataError: there is none, or none that fits.
    """
    spec = stored.spec
    assert spec.block_size is not None, "it reads conversations"
    source = TalkSource(cache, split, spec.block_size, stored.model.image_tokens, None)
    sample_ids = cache.sample_ids(split)
    for index in range(len(source)):
        number, end = source.talks.number(index), source.length(index)
        answers = source.talks.cached.answers(number)
        # What is read ends with an answer, so this is the last one that is whole.
        last = int((answers[:, 1] <= end).sum()) - 1
        turns = source.talks.cached.turns(number)
        at = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"][last]
        ids = source.talks.cached.ids(number)[:end].tolist()
        yield Question(
            sample_id=sample_ids[source.talks.rows[index]].as_py(),
            turns=turns[:at],
            answer=turns[at]["content"],
            known=Talk(ids, source.images(index).tolist()),
            answered=int(answers[last, 1] - answers[last, 0]),
        )


class Seen:
    """The images of some conversations, each encoded once."""

    def __init__(
        self,
        stored: StoredVlm,
        cache: TrainingCache,
        questions: Sequence[Question],
        device: torch.device,
    ) -> None:
        """Encode with the model's own encoder, evaluating on the device."""
        shown = [number for question in questions for number in question.known.images]
        numbers = np.unique(np.array(shown, np.int64))
        self._rows = {int(number): row for row, number in enumerate(numbers)}
        spec, encoder = stored.spec, stored.model.image_encoder
        size = spec.image_encoder.image_size
        resize = left_to_resize(spec.images, cache)
        blocks = np.split(numbers, range(BATCH_IMAGES, len(numbers), BATCH_IMAGES))
        encoded = [
            encode_images(encoder, cache.images[block], spec.normalization, size, device, resize)
            for block in blocks
            if len(block)
        ]
        nothing = torch.zeros(0, encoder.tokens, encoder.token_width)
        self.features = torch.cat([nothing, *encoded]).to(device)
        """[distinct images, tokens, token_width]."""

    def find(self, numbers: Sequence[int]) -> list[int]:
        """The rows among the features of images by their numbers in the cache."""
        return [self._rows[number] for number in numbers]


def evaluate_talks(job: EvaluationJob) -> Evaluation:
    """Write the last answer of every conversation of the split.

    Raises:
        DataError: the split has no conversation that fits.
    """
    stored, cache, config = job.stored, job.cache, job.config
    assert isinstance(config, VlmEvaluationConfig)
    model, spec = stored.model.to(job.device).eval(), stored.spec
    questions = list(read_questions(stored, cache, config.split))
    seen = Seen(stored, cache, questions, job.device)
    # As whoever asks the model writes it: the answer's own ids are not looked at.
    asked = [
        make_prompt(spec, stored.text, model.image_tokens, question.turns) for question in questions
    ]
    shown = [seen.find(question.known.images) for question in questions]
    talks = [Talk(ids, images) for ids, images in zip(asked, shown, strict=True)]
    written = write_talks(
        model,
        seen.features,
        talks,
        eos=spec.special_ids.eos,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
    )
    predicted = stored.text.decode_batch([answer.ids for answer in written])
    nll = talk_nll(
        model,
        seen.features,
        [Talk(q.known.ids, images) for q, images in zip(questions, shown, strict=True)],
        [question.answered for question in questions],
        batch_size=config.batch_size,
    )
    references = [question.answer for question in questions]
    predictions = [
        _as_prediction(question, text, answer)
        for question, text, answer in zip(questions, predicted, written, strict=True)
    ]
    looked = [
        Asked(talk, next(iter(question.known.images), None), answer)
        for talk, question, answer in zip(talks, questions, written, strict=True)
    ]
    correct = [prediction.correct for prediction in predictions]
    arrays, said = attention_arrays(stored, cache, seen.features, looked, correct)
    guesses = _guess(stored, cache, [question.asked for question in questions])
    return Evaluation(
        answer_figures(predicted, references, guesses, nll),
        [asdict(prediction) for prediction in predictions],
        {"by_prompt": by_prompt(predictions)},
        # Of captions, which conversations have none of; the page reads it.
        {"bleu_signature": None, **said},
        arrays,
    )


def _as_prediction(question: Question, text: str, written: Written) -> Prediction:
    return Prediction(
        "question",
        question.sample_id,
        question.asked,
        [question.answer],
        text,
        normalize_answer(text) == normalize_answer(question.answer),
        round(written.confidence, 6),
    )


def _guess(stored: StoredVlm, cache: TrainingCache, asked: Sequence[str]) -> list[str]:
    """What training says most often to the same words: an answer that nobody looked for."""
    known = [
        (question.asked, question.answer) for question in read_questions(stored, cache, "train")
    ]
    questions, answers = zip(*known, strict=True)
    return question_only_baseline(questions, answers, asked)
