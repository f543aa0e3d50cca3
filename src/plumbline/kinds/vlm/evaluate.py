"""How well a vision-language model answers and describes."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.errors import DataError
from plumbline.evaluation.result import Evaluation, EvaluationJob, Row
from plumbline.kinds.vlm.answers import answer_figures, by_prompt
from plumbline.kinds.vlm.attention import Asked, ask_about, attention_arrays
from plumbline.kinds.vlm.evaluate_talks import evaluate_talks
from plumbline.kinds.vlm.features import BATCH_IMAGES, encode_images
from plumbline.kinds.vlm.generation import Written, answer_nll, write_answers
from plumbline.kinds.vlm.model import StoredVlm
from plumbline.kinds.vlm.settings import VlmEvaluationConfig
from plumbline.kinds.vlm.train import say_cut_texts
from plumbline.loading.cache_reader import MediaRows, TrainingCache
from plumbline.loading.inputs import left_to_resize
from plumbline.metrics.rouge import rouge
from plumbline.metrics.text_overlap import (
    corpus_bleu,
    normalize_answer,
    question_only_baseline,
)

Ids = list[int]


@dataclass(frozen=True)
class Prediction:
    """One prompt about one image, and what came out."""

    kind: str
    """question or caption."""
    image: int
    prompt: str
    references: list[str]
    prediction: str
    correct: bool
    confidence: float
    """As `Written` has it."""


def evaluate(job: EvaluationJob) -> Evaluation:
    """Answer every question and describe every captioned image of the split, or its conversations.

    Raises:
        DataError: there is nothing of that.
    """
    assert isinstance(job.config, VlmEvaluationConfig)
    if job.stored.spec.chat:
        return evaluate_talks(job)
    return VlmEvaluator(job.stored, job.cache, job.config, job.device).evaluate()


class VlmEvaluator:
    """Answers the prompts of one split; features of its images are computed once."""

    def __init__(
        self,
        stored: StoredVlm,
        cache: TrainingCache,
        config: VlmEvaluationConfig,
        device: torch.device,
    ) -> None:
        """Encode the split's images with the model's own encoder."""
        self._stored, self._cache, self._config = stored, cache, config
        stored.model.to(device).eval()
        self._rows = cache.by_medium(config.split, "image")
        # Where there are none, `evaluate` says so in its own words.
        if self._rows:
            say_cut_texts(cache, config.split, self._rows, stored.spec.max_text_tokens)
        numbers = np.array([row.number for row in self._rows], np.int64)
        size = stored.spec.image_encoder.image_size
        encoder, normalize = stored.model.image_encoder, stored.spec.normalization
        resize = left_to_resize(stored.spec.images, cache)
        # [images, tokens, token_width], once for all that is asked about an image
        self._features = torch.cat(
            [
                encode_images(encoder, cache.images[block], normalize, size, device, resize)
                for block in np.split(numbers, range(BATCH_IMAGES, len(numbers), BATCH_IMAGES))
            ]
        ).to(device)
        self._asked: list[Asked] = []

    def evaluate(self) -> Evaluation:
        """Answer every question and describe every captioned image of the split.

        A model that learned no captions is asked for none.

        Raises:
            DataError: there is neither.
        """
        metrics: dict[str, float | None] = {}
        predictions: list[Prediction] = []
        starts: list[Row] = []
        signature = None
        if any(len(row.questions) for row in self._rows):
            answered, figures = self._answer_questions()
            predictions += answered
            metrics |= figures
            starts = by_prompt(answered)
        if self._stored.spec.captions and any(len(row.captions) for row in self._rows):
            described, figures, signature = self._describe_images()
            predictions += described
            metrics |= figures
        if not predictions:
            raise DataError(f"split {self._config.split!r} has neither questions nor captions")
        correct = [one.correct for one in predictions[: len(self._asked)]]
        arrays, looked = attention_arrays(
            self._stored, self._cache, self._features, self._asked, correct
        )
        return Evaluation(
            metrics,
            [asdict(prediction) for prediction in predictions],
            {"by_prompt": starts},
            {"bleu_signature": signature, **looked},
            arrays,
        )

    def _write(self, at: list[int], prompts: list[Ids]) -> tuple[list[Written], list[str]]:
        special = self._stored.spec.special_ids
        limit = self._stored.spec.max_text_tokens
        answers = write_answers(
            self._stored.model,
            self._features,
            at,
            [prompt[:limit] for prompt in prompts],
            bos=special.bos,
            eos=special.eos,
            max_new_tokens=self._config.max_new_tokens,
            batch_size=self._config.batch_size,
        )
        return answers, self._stored.text.decode_batch([answer.ids for answer in answers])

    def _answer_questions(self) -> tuple[list[Prediction], dict[str, float | None]]:
        cache = self._cache
        # [questions]: the row of each one's image among the features
        at = [i for i, row in enumerate(self._rows) for _ in row.questions]
        # [questions, 2]: text numbers of question and answer
        pairs: NDArray[np.int32] = np.concatenate([row.questions for row in self._rows])
        limit = self._stored.spec.max_text_tokens  # as training cut them
        prompts = [cache.ids(int(q))[:limit].tolist() for q in pairs[:, 0]]
        answers = [cache.ids(int(a))[:limit].tolist() for a in pairs[:, 1]]
        written, predicted = self._write(at, prompts)
        tokens, bos = self._stored.model.image_tokens, self._stored.spec.special_ids.bos
        self._asked += [
            Asked(ask_about(tokens, prompt, bos, i), self._rows[i].number, answer)
            for i, prompt, answer in zip(at, prompts, written, strict=True)
        ]
        questions = [cache.text(int(q)) for q in pairs[:, 0]]
        references = [cache.text(int(a)) for a in pairs[:, 1]]
        predictions = [
            Prediction(
                "question",
                self._rows[i].number,
                question,
                [reference],
                text,
                normalize_answer(text) == normalize_answer(reference),
                round(answer.confidence, 6),
            )
            for i, question, reference, text, answer in zip(
                at, questions, references, predicted, written, strict=True
            )
        ]
        guesses = self._guess(questions)
        total, count = answer_nll(
            self._stored.model,
            self._features,
            at,
            prompts,
            answers,
            bos=self._stored.spec.special_ids.bos,
            eos=self._stored.spec.special_ids.eos,
            batch_size=self._config.batch_size,
        )
        return predictions, answer_figures(predicted, references, guesses, (total, count))

    def _guess(self, questions: list[str]) -> list[str]:
        """The best answers that can be had without looking: what training says most often."""
        # Whoever answers as well as this has not shown that the image matters.
        rows = self._cache.rows("train")
        asked = (rows["question"] >= 0) & (rows["answer"] >= 0)
        text = self._cache.text
        return question_only_baseline(
            [text(int(q)) for q in rows["question"][asked]],
            [text(int(a)) for a in rows["answer"][asked]],
            questions,
        )

    def _describe_images(self) -> tuple[list[Prediction], dict[str, float | None], str]:
        at = [i for i, row in enumerate(self._rows) if len(row.captions)]
        prompt = self._stored.spec.caption_prompt
        ids = self._stored.text.encode(prompt, add_special_tokens=False).ids
        written, predicted = self._write(at, [ids] * len(at))
        references = [self._captions(self._rows[i]) for i in at]
        bleu, signature = corpus_bleu(predicted, references, self._config.bleu_tokenizer)
        overlap = rouge(predicted, references)
        predictions = [
            Prediction(
                "caption",
                self._rows[i].number,
                prompt,
                known,
                text,
                text in known,
                round(answer.confidence, 6),
            )
            for i, known, text, answer in zip(at, references, predicted, written, strict=True)
        ]
        figures: dict[str, float | None] = {
            "caption_bleu": bleu,
            **{f"caption_{name}": value for name, value in overlap.items()},
            "captions": float(len(at)),
        }
        return predictions, figures, signature

    def _captions(self, row: MediaRows) -> list[str]:
        return [self._cache.text(int(number)) for number in row.captions]
