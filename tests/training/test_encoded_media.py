"""Trainings from encoded shards: the bits of decoded media, and of any killed or parted run."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.batch import Batch, finish
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.keys import Share
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.sections import TrainingConfig
from plumbline.training.task import TrainingJob
from tests.tiny import CASES, TOKENIZE, make_cache, write_clean
from tests.training.test_resume_tasks import Killed, killed_at, run, train

MakeJob = Callable[..., TrainingJob]
SHARD_MB = {"scenes": 1e-3, "clips": 4e-3}
"""Some three media a shard; of the others 3e-3."""
FORMS = ["vlm", "vlm_turns", "image", "gray", "audio", "align_image", "align_audio"]
"""Every kind of task that reads images or clips."""


@pytest.fixture(scope="module")
def encoded(
    scenes_clean: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TrainingCache]:
    """The encoded cache of a tiny dataset, by name."""
    opened: dict[str, TrainingCache] = {}

    def open_cache(name: str) -> TrainingCache:
        if name not in opened:
            folder = tmp_path_factory.mktemp(name)
            settings: dict[str, Any] = TOKENIZE.get(name, {"tokenizer": {"kind": "char"}})
            if name == "scenes":
                shutil.copytree(scenes_clean, folder / "clean")
                settings = {"tokenizer": {"vocab_size": 300}}
            else:
                (folder / "clean").mkdir()
                write_clean(folder / "clean", name)
            more = {"decoded_gb": 0.0, "shard_mb": SHARD_MB.get(name, 3e-3)}
            opened[name] = make_cache(folder, settings | more)
        return opened[name]

    return open_cache


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def within(window: int, workers: int = 0) -> TrainingConfig:
    """The settings of `run`, shuffled within so many shards."""
    settings = run(workers)
    loader = settings.train.loader.model_copy(update={"shuffle_shards": window})
    return settings.model_copy(
        update={"train": settings.train.model_copy(update={"loader": loader})}
    )


def tensors(batch: Batch) -> dict[str, Any]:
    """What of a batch a model is given."""
    parts = {name: tensors(v) if isinstance(v, dict) else v for name, v in batch.items()}
    return {name: v for name, v in parts.items() if isinstance(v, dict | torch.Tensor)}


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_encoded_media_are_those_of_decoded_ones(
    make_job: MakeJob, encoded: Callable[[str], TrainingCache], form: str
) -> None:
    found = []
    for job in (make_job(form), make_job(form, cache=encoded(CASES[form].data))):
        config = LoaderConfig(shuffle_shards=1000)
        loader = Loader(job.train, job.task.collate, config, seed=3, shuffle=True)
        found.append([tensors(finish(batch)) for batch in loader.batches(1)])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_encoded_media_train_to_the_bits_of_decoded_ones(
    make_job: MakeJob, encoded: Callable[[str], TrainingCache], form: str
) -> None:
    cache = encoded(CASES[form].data)
    shards = cache.shards("image" if "images" in cache.facts else "audio", np.arange(9))
    assert shards is not None
    assert shards.of_sample.max() > 1
    assert train(make_job(form, cache=cache), within(1000), "encoded") == train(
        make_job(form), within(1000), "decoded"
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_training_killed_within_a_shard_goes_on_to_the_same_bits_with_any_workers(
    make_job: MakeJob, encoded: Callable[[str], TrainingCache], form: str
) -> None:
    cache = encoded(CASES[form].data)
    whole = train(make_job(form, cache=cache), within(2), "whole")
    assert whole != train(make_job(form, cache=cache), within(1000), "other")  # another order
    passes = 1 if CASES[form].additive else 2
    for kill in (1, 2, 1):
        job = make_job(form, cache=cache)
        dying = replace(
            job,
            task=killed_at(job.task, kill * passes),
            validation_task=job.validation_task or job.task,
        )
        with pytest.raises(Killed):
            train(dying, within(2), "parted")
    assert train(make_job(form, cache=cache), within(2, workers=2), "parted") == whole
    assert train(make_job(form, cache=cache), within(2, workers=4), "four") == whole


@pytest.mark.parametrize("form", FORMS)
def test_the_shares_of_all_processes_are_the_batches_of_one(
    make_job: MakeJob, encoded: Callable[[str], TrainingCache], form: str
) -> None:
    job = make_job(form, cache=encoded(CASES[form].data))
    config = LoaderConfig(batch_size=5, shuffle_shards=2)

    def numbers(share: Share) -> list[list[int]]:
        loader = Loader(job.train, job.task.collate, config, seed=3, shuffle=True, share=share)
        return [[int(i) for i in batch["sample_index"]] for batch in loader.batches(1)]

    whole = numbers(Share())
    shares = [numbers(Share(rank, 3)) for rank in range(3)]
    joined = [[n for part in parts for n in part] for parts in zip(*shares, strict=True)]
    assert [len(batch) for batch in joined] == [len(batch) for batch in whole]
    np.testing.assert_array_equal(np.concatenate(joined), np.concatenate(whole))
    np.testing.assert_array_equal(np.sort(np.concatenate(whole)), np.arange(len(job.train)))
