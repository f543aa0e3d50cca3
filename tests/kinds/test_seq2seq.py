"""Sources and targets: what the decoder is given and what it has to say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.batch import IGNORE_INDEX
from plumbline.kinds.seq2seq.train import shift_right
from plumbline.loading.cache_reader import TrainingCache
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import TrainingJob
from tests.kinds import references

MakeJob = Callable[..., TrainingJob]
Caches = Callable[[str], TrainingCache]
SPECIAL = SpecialIds(pad=0, bos=1, eos=2)


def test_decoder_inputs_are_the_labels_one_place_later() -> None:
    """Behind bos; what carries no loss is padding, never the ignored label itself."""
    no = IGNORE_INDEX
    labels = np.array([[7, 8, 9, 2], [5, 2, no, no]])
    assert shift_right(labels, SPECIAL).tolist() == [[1, 7, 8, 9], [1, 5, 2, 0]]


def test_a_batch_holds_sources_and_shifted_targets(make_job: MakeJob, caches: Caches) -> None:
    job, cache = make_job("seq2seq"), caches("pairs")
    batch = job.task.collate([job.train.sample(i, 0) for i in range(5)])
    rows = cache.rows("train")
    for at in range(5):
        source, target = (cache.ids(int(rows[name][at])).tolist() for name in ("source", "target"))
        known = batch["attention_mask"][at].bool()
        assert batch["input_ids"][at][known].tolist() == [*source, 2]
        labelled = batch["labels"][at] != IGNORE_INDEX
        assert batch["labels"][at][labelled].tolist() == [*target, 2]
        assert batch["decoder_input_ids"][at][labelled].tolist() == [1, *target]
        length = int(known.sum()) + int(labelled.sum())
        assert length == job.train.length(at)  # type: ignore[attr-defined]


def test_long_texts_are_cut_and_still_end(make_job: MakeJob) -> None:
    job = make_job("seq2seq", task={"max_source_tokens": 3, "max_target_tokens": 2})
    lengths = [len(job.train.sample(i, 0)["source"]) for i in range(len(job.train))]
    assert max(lengths) == 4
    for index in range(len(job.train)):
        sample = job.train.sample(index, 0)
        assert sample["source"][-1] == sample["labels"][-1] == 2
        assert len(sample["labels"]) <= 3
        assert len(sample["source"]) + len(sample["labels"]) <= job.train.length(index)  # type: ignore[attr-defined]


@torch.inference_mode()
def test_a_target_token_sees_the_source_and_only_what_came_before(make_job: MakeJob) -> None:
    job = make_job("seq2seq")
    model: Any = job.model.eval()
    batch = job.task.collate([job.train.sample(1, 0)])
    before = model(**batch)[0]
    for at in range(before.shape[0]):
        changed = batch["decoder_input_ids"].clone()
        changed[0, at] = (changed[0, at] + 11) % 300
        after = model(**batch | {"decoder_input_ids": changed})[0]
        assert torch.equal(after[:at], before[:at])
        assert not torch.equal(after[at], before[at])
    sources = batch["input_ids"].clone()
    sources[0, 0] = (sources[0, 0] + 11) % 300
    assert (model(**batch | {"input_ids": sources})[0] != before).any(dim=-1).all()


@torch.inference_mode()
def test_the_mask_reaches_the_encoder(make_job: MakeJob) -> None:
    job = make_job("seq2seq")
    model: Any = job.model.eval()
    batch = job.task.collate([job.train.sample(i, 0) for i in range(3)])
    mask = batch["attention_mask"].clone()
    mask[:, 0] = 0
    assert (model(**batch | {"attention_mask": mask}) != model(**batch)).any(dim=-1).all()


def test_validation_measures_the_likelihood_without_smoothing(make_job: MakeJob) -> None:
    job = make_job("seq2seq", task={"label_smoothing": 0.5})
    assert job.validation_task is not None
    batch = job.task.collate([job.train.sample(i, 0) for i in range(3)])
    smoothed, plain = (t.loss(job.model.eval(), batch) for t in (job.task, job.validation_task))
    for loss, smoothing in ((smoothed, 0.5), (plain, 0.0)):
        expected, count = references.language(job.model, batch, smoothing)
        assert loss.total.item() == pytest.approx(expected, rel=1e-6)
        assert int(loss.count) == count
    assert smoothed.total.item() != pytest.approx(plain.total.item(), rel=1e-4)
    nats = plain.total.item() / int(plain.count)
    assert job.validation_task.loss_metrics(nats) == {"perplexity": pytest.approx(np.exp(nats))}
