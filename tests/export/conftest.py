"""A tiny vision-language model with random weights, and its bundle, built once."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from plumbline.export.bundle import BundleSource, write_bundle
from plumbline.export.config import ExportConfig
from plumbline.files import dump_json, staged_folder, write_digests
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.config import DecoderConfig
from plumbline.models.stored import load_vlm, save_model
from plumbline.tasks.config import VlmModelConfig, VlmTaskConfig
from plumbline.tasks.vlm import build_vlm

CONFIG = ExportConfig(max_new_tokens=12, parity_samples=30, selftest_samples=3)


@pytest.fixture(scope="session")
def vlm_folder(
    scenes_cache: Path, aligned_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A stored model with grouped heads; its random answers end at different lengths."""

    from plumbline.export.parity import reference_answers
    from plumbline.export.samples import choose_samples

    decoder = DecoderConfig(width=32, layers=2, heads=4, kv_heads=2, mlp_width=48, max_positions=64)
    model = VlmModelConfig(projector_width=16, decoder=decoder, freeze=[])
    cache = TrainingCache(scenes_cache)
    job = build_vlm(
        cache,
        aligned_folder,
        model,
        VlmTaskConfig(max_text_tokens=24),
        seed=0,
        device=torch.device("cpu"),
    )
    with torch.no_grad():
        for parameter in job.model.decoder.model.layers.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20)  # else it repeats its last token, whatever it sees
    folder = tmp_path_factory.mktemp("vlm")
    save_model(folder, job.model, job.spec, job.tokenizer)
    (folder / "config.json").write_text(dump_json({"seed": 0, "start": "/somewhere/else/image"}))
    write_digests(folder)
    stored = load_vlm(folder)
    samples = choose_samples(cache, stored, "test", CONFIG.parity_samples)
    said = reference_answers(stored, cache, samples, CONFIG.max_new_tokens).answers
    # Random weights never say the real end token: take the one that they say most.
    (frequent, _), *_ = Counter(token for answer in said for token in answer[1:]).most_common(1)
    special = job.spec.special_ids.model_copy(update={"eos": frequent})
    spec = job.spec.model_copy(update={"special_ids": special})
    save_model(folder, job.model, spec, job.tokenizer)
    write_digests(folder)
    return folder


@pytest.fixture
def config() -> ExportConfig:
    """The settings of `bundle`."""
    return CONFIG


@pytest.fixture
def source(vlm_folder: Path, scenes_cache: Path) -> BundleSource:
    """What the bundle is made from, loaded anew."""
    training = {"seed": 0, "start": "/somewhere/else/image"}
    return BundleSource(load_vlm(vlm_folder), TrainingCache(scenes_cache), training, threads=1)


@pytest.fixture(scope="session")
def bundle(vlm_folder: Path, scenes_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle in both formats; tests only read it."""
    training = {"seed": 0, "start": "/somewhere/else/image"}
    source = BundleSource(load_vlm(vlm_folder), TrainingCache(scenes_cache), training, threads=1)
    out = tmp_path_factory.mktemp("exports") / "vqa"
    with staged_folder(out) as partial:
        write_bundle(source, CONFIG, partial)
    return out
