"""Tiny models of every kind with random weights, and their bundles, each built once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.export.bundle import write_bundle
from plumbline.export.config import ExportConfig
from plumbline.export.plan import BundleSource
from plumbline.files import dump_json, staged_folder, write_digests
from plumbline.kind import known_kinds
from plumbline.kinds.vlm.export import choose_samples, reference_answers
from plumbline.kinds.vlm.settings import VlmConfig, VlmExportConfig, VlmTaskConfig
from plumbline.kinds.vlm.train import build
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model, save_model
from plumbline.training.task import JobContext
from tests.tiny import CASES

CONFIG = VlmExportConfig(max_new_tokens=12, parity_samples=30, selftest_samples=3)
TRAINING = {"seed": 0, "start": "/somewhere/else/image"}

DECODER = {
    "width": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "mlp_width": 48,
    "max_positions": 64,
}


@pytest.fixture(scope="session")
def vlm_folder(
    scenes_cache: Path, aligned_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A stored model with grouped heads; its random answers end at different lengths."""
    cache = TrainingCache(scenes_cache)
    job: Any = build(
        JobContext(cache=cache, seed=0, start=aligned_folder),
        VlmConfig.model_validate({"projector": {"name": "mlp", "width": 16}, "decoder": DECODER}),
        VlmTaskConfig(max_text_tokens=24),
    )
    with torch.no_grad():
        for parameter in job.model.decoder.model.layers.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20)  # else it repeats its last token, whatever it sees
    folder = tmp_path_factory.mktemp("vlm")
    save_model(folder, job.model, job.spec, job.tokenizer)
    (folder / "config.json").write_text(dump_json(TRAINING), encoding="utf-8")
    write_digests(folder)
    stored = load_model(folder)
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
def config() -> VlmExportConfig:
    """The settings of `bundle`."""
    return CONFIG


@pytest.fixture
def source(vlm_folder: Path, scenes_cache: Path) -> BundleSource:
    """What the bundle is made from, loaded anew."""
    return BundleSource(load_model(vlm_folder), TrainingCache(scenes_cache), TRAINING, threads=1)


@pytest.fixture(scope="session")
def bundle(vlm_folder: Path, scenes_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `vlm_folder` in both formats; tests only read it."""
    source = BundleSource(load_model(vlm_folder), TrainingCache(scenes_cache), TRAINING, threads=1)
    out = tmp_path_factory.mktemp("exports") / "vqa"
    with staged_folder(out) as partial:
        write_bundle(source, CONFIG, partial)
    return out


@pytest.fixture(scope="session")
def folder_of(make_job: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The stored model of a case of `tests.tiny`, with weights of some size."""
    folders: dict[str, Path] = {}

    def store(name: str) -> Path:
        if name not in folders:
            job = make_job(name)
            with torch.no_grad():
                for parameter in job.model.parameters():
                    if parameter.ndim == 2:
                        parameter.mul_(3)
            folders[name] = tmp_path_factory.mktemp(name)
            save_model(folders[name], job.model, job.spec, job.tokenizer)
            (folders[name] / "config.json").write_text(
                dump_json({"data": CASES[name].data}), encoding="utf-8"
            )
            write_digests(folders[name])
        return folders[name]

    return store


@pytest.fixture(scope="session")
def source_of(
    folder_of: Callable[[str], Path], caches: Callable[[str], TrainingCache]
) -> Callable[[str], BundleSource]:
    """What the bundle of a case is made from, loaded anew."""
    return lambda name: BundleSource(
        load_model(folder_of(name)), caches(CASES[name].data), {}, threads=1
    )


def settings_of(name: str, **changes: Any) -> ExportConfig:
    """The export settings of a case, small."""
    kind = CASES[name].kind
    small: dict[str, Any] = {"parity_samples": 9, "selftest_samples": 2, **changes}
    if kind == "seq2seq":
        small = {"max_new_tokens": 8, "beams": 3, **small}
    if kind == "alignment":
        small = {"enabled": True, **small}
    schema = known_kinds()[kind].settings.export
    assert schema is not None
    return schema.model_validate(small)


@pytest.fixture(scope="session")
def bundle_of(
    source_of: Callable[[str], BundleSource], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The bundle of a case, in both formats or in those that are named; tests only read it."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(name: str, *formats: str) -> Path:
        key = (name, *formats)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("exports") / name
            chosen = {"formats": list(formats)} if formats else {}
            with staged_folder(made[key]) as partial:
                write_bundle(source_of(name), settings_of(name, **chosen), partial)
        return made[key]

    return make
