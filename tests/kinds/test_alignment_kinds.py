"""Images and clips meet texts, as token ids or as they are written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import ConfigError, DataError
from plumbline.evaluation.result import EvaluationJob
from plumbline.kinds.alignment.evaluate import Embedder, evaluate
from plumbline.kinds.alignment.model import load_dual_encoder
from plumbline.kinds.alignment.settings import AlignmentEvaluationConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.training.task import TrainingJob
from tests.tiny import NGRAMS, TEXT

CPU = torch.device("cpu")
MakeJob = Callable[..., TrainingJob]
Caches = Callable[[str], TrainingCache]
Folders = Callable[[str], Path]


def train(job: TrainingJob, steps: int) -> list[float]:
    """The loss per pair of a few steps over the whole training split."""
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=0.02)
    losses = []
    for epoch in range(steps):
        batch = job.task.collate([job.train.sample(i, epoch) for i in range(len(job.train))])
        loss = job.task.loss(job.model, batch)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
        losses.append(loss.total.item() / int(loss.count))
    return losses


@pytest.mark.parametrize("text", [NGRAMS, TEXT], ids=["ngrams", "transformer"])
@pytest.mark.parametrize("name", ["align_ngrams", "align_audio"])
def test_media_align_with_raw_texts_and_with_token_ids(
    make_job: MakeJob, name: str, text: dict[str, Any]
) -> None:
    """The encoder alone says what it reads."""
    job = make_job(name, model={"text_encoder": text}, task={"loss": "info_nce"})
    batch = job.task.collate([job.train.sample(i, 0) for i in range(6)])
    ngrams = text["name"] == "ngrams"
    read = {"ngrams", "starts"} if ngrams else {"input_ids", "attention_mask"}
    assert set(batch["texts"]) == read
    losses = train(job, 25)
    assert losses[-1] < 0.9 * losses[0]


def test_raw_texts_of_a_batch_are_those_of_its_captions(make_job: MakeJob, caches: Caches) -> None:
    job, cache = make_job("align_ngrams", task={"text_dropout": 0.4}), caches("pictures")
    samples = [job.train.sample(i, 0) for i in range(24)]
    batch = job.task.collate(samples)
    numbers = batch["text_number"].tolist()
    said = ["" if n < 0 else cache.text(n) for n in numbers]
    encoder = job.model.get_submodule("text_encoder")
    found = encoder(**batch["texts"]).pooled[batch["text_index"]]
    torch.testing.assert_close(found, encoder(said).pooled)
    assert -1 in numbers
    assert len(batch["texts"]["starts"]) == len(set(numbers))


def test_data_without_captions_are_refused(make_job: MakeJob, caches: Caches) -> None:
    features = {"inputs": {"modality": "features"}}
    for name, settings in (("align_audio", features), ("vlm", {})):
        with pytest.raises(DataError, match=r"signals.*: this dataset has no text"):
            make_job(name, cache=caches("signals"), task=settings)
    with pytest.raises(DataError, match=r"reviews.*: this dataset has no images"):
        make_job("align_ngrams", cache=caches("reviews"))


@pytest.mark.parametrize("name", ["align_audio", "align_ngrams"])
def test_prompts_of_the_classes_classify_the_media(
    stored_case: Folders, caches: Caches, name: str
) -> None:
    """Zero-shot: the class whose prompts lie nearest, checked medium by medium."""
    stored = load_dual_encoder(stored_case(name))
    cache = caches("clips" if name == "align_audio" else "pictures")
    templates = ["say {label}", "{label}"]
    config = AlignmentEvaluationConfig(zero_shot=templates, batch_size=5)
    figures = evaluate(EvaluationJob(stored, cache, config, CPU)).metrics
    part, names = next(iter(cache.classes().items()))
    job_inputs = stored.spec.inputs.source
    rows, number = cache.rows("test"), cache.facts["parts"].index(part)
    embedder = Embedder(stored, cache, CPU, batch_size=1)
    directions = []
    for label in names:
        texts = [template.replace("{label}", label) for template in templates]
        mean = torch.from_numpy(embedder.embed_texts(texts)).double().mean(dim=0)
        directions.append(mean / mean.norm())
    hits = []
    for medium, label, of_part in zip(rows[job_inputs], rows["label"], rows["part"], strict=True):
        if of_part == number and label >= 0:
            embedded = torch.from_numpy(embedder.embed_media(medium[None])).double()[0]
            hits.append(int((torch.stack(directions) @ embedded).argmax()) == label)
    assert figures["zero_shot_accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_zero_shot_needs_labels(stored_case: Folders, caches: Caches) -> None:
    stored = load_dual_encoder(stored_case("align_image"))
    config = AlignmentEvaluationConfig(zero_shot=["{label}"])
    with pytest.raises(ConfigError, match=r"zero_shot: .* has no labels to put into the templates"):
        evaluate(EvaluationJob(stored, caches("scenes"), config, CPU))


def test_figures_are_named_by_the_medium(stored_case: Folders, caches: Caches) -> None:
    stored = load_dual_encoder(stored_case("align_audio"))
    result = evaluate(
        EvaluationJob(stored, caches("clips"), AlignmentEvaluationConfig(ks=[1, 2, 3]), CPU)
    )
    assert result.metrics["audios"] == 9
    arrays = result.arrays
    cosines = arrays["text_embeddings"].astype(float) @ arrays["media_embeddings"].T
    rows = caches("clips").by_medium("test", "audio")
    right = {row.number: row.captions.tolist() for row in rows}
    first = arrays["media"][(-cosines).argsort(axis=1)]  # [texts, clips], the nearest first
    expected = {}
    for k in (1, 2, 3):
        hits = [
            any(text in right[clip] for clip in clips[:k])
            for text, clips in zip(arrays["texts"], first, strict=True)
        ]
        expected[f"text_to_audio_recall_at_{k}"] = sum(hits) / len(hits)
    found = {name: result.metrics[name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-9)
    assert "audio_to_text_recall_at_1" in result.metrics
    assert not any("image" in name for name in result.metrics)
