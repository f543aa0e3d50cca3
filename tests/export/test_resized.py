"""Images that are resized as settings say reach a bundle as they reached training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.data.images import decode_image, resize_image
from plumbline.errors import ConfigError, ExportError
from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.files import dump_json, read_json, write_digests
from plumbline.kinds.vlm.settings import VlmExportConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model, save_model
from tests.export.conftest import settings_of
from tests.export.opening import model_of
from tests.tiny import SIZES, make_cache, picture, write_rows

MakeJob = Callable[..., Any]

CROPPED = {"resample": "lanczos", "keep_ratio": True, "crop": 0.8}
PREPARED = {"image_size": [16, 16], "image_resize": CROPPED}
SAME: Callable[[int], tuple[int, int]] = lambda at: (20, 27)  # noqa: E731
OTHER: Callable[[int], tuple[int, int]] = lambda at: (12 + at, 40 - at)  # noqa: E731


def cache_of(folder: Path, size: Callable[[int], tuple[int, int]], **tokenize: Any) -> Any:
    """Pictures of some sizes, height and width by their number, with labels, words and answers."""
    (folder / "clean").mkdir(parents=True)
    at = 0
    for split, count in SIZES.items():
        rows: list[dict[str, Any]] = []
        for _ in range(count):
            image, what = picture(at, *size(at)), ("cat", "dog")[at % 2]
            rows += [
                {"image": image, "label": what},
                {"image": image, "caption": f"a {what}"},
                {"image": image, "question": "what is it", "answer": what},
            ]
            at += 1
        named = [{"sample_id": f"{split}-{number // 3}"} | r for number, r in enumerate(rows)]
        write_rows(folder / "clean", split, named)
    return make_cache(folder, {"tokenizer": {"vocab_size": 300}} | tokenize)


def stored(job: Any, folder: Path) -> Path:
    folder.mkdir()
    save_model(folder, job.model, job.spec, job.tokenizer)
    (folder / "config.json").write_text(dump_json({"data": "pictures"}), encoding="utf-8")
    write_digests(folder)
    return folder


def exported(folder: Path, cache: TrainingCache, config: Any) -> Any:
    """The task of the bundle, once its gates hold."""
    out = folder.parent / "bundle"
    out.mkdir()
    write_bundle(BundleSource(load_model(folder), cache, {}, threads=1), config, out)
    write_digests(out)
    formats = read_json(out / "metadata.json")["formats"].values()
    assert {result["status"] for result in formats} == {"ok"}
    return model_of(out).task


def inputs(resize: Any) -> dict[str, Any]:
    return {"inputs": {"modality": "image", "resize": resize}}


@pytest.mark.parametrize(
    ("size", "tokenize", "resize"),
    [(OTHER, PREPARED, None), (OTHER, PREPARED, CROPPED), (SAME, {}, CROPPED)],
    ids=["by the cache", "by both alike", "by the inputs"],
)
def test_a_classifier_is_trained_and_asked_with_the_same_pixels(
    make_job: MakeJob, tmp_path: Path, size: Any, tokenize: dict[str, Any], resize: Any
) -> None:
    cache = cache_of(tmp_path / "data", size, **tokenize)
    job = make_job("image", task=inputs(resize), cache=cache)
    assert job.spec.inputs.resize.model_dump() == CROPPED
    task = exported(stored(job, tmp_path / "model"), cache, settings_of("image"))
    for at in (0, 5):
        trained = job.task.collate([job.train.sample(at, 0)])["inputs"]["pixel_values"]
        data = picture(at, *size(at))
        (asked,) = task.inputs({"image": data})
        assert np.array_equal(asked, trained.numpy())
        pixels = resize_image(decode_image(data), 16, 16, **CROPPED)
        mean, std = (torch.tensor(v) for v in job.spec.inputs.normalize.statistics)
        expected = (torch.tensor(pixels) / 255 - mean) / std  # [16, 16, 3]
        torch.testing.assert_close(trained[0].permute(1, 2, 0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("freeze", [[], ["image_encoder"]], ids=["pixels", "frozen features"])
@pytest.mark.parametrize(
    ("size", "tokenize"), [(OTHER, PREPARED), (SAME, {})], ids=["by the cache", "by the inputs"]
)
def test_a_vlm_sees_what_its_encoder_was_aligned_with(
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: Any,
    tokenize: dict[str, Any],
    freeze: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where frozen features lie
    cache = cache_of(tmp_path / "data", size, **tokenize)
    aligned = make_job("align_image", task=inputs(CROPPED), cache=cache)
    start = stored(aligned, tmp_path / "aligned")
    job = make_job("vlm", cache=cache, start=start, freeze=freeze)
    assert job.spec.inputs.resize.model_dump() == CROPPED
    encoder = job.model.image_encoder.eval()
    config = VlmExportConfig(max_new_tokens=4, parity_samples=6, selftest_samples=2)
    task = exported(stored(job, tmp_path / "model"), cache, config)
    batch = job.task.collate([job.train.sample(3, 0)])
    asked = torch.from_numpy(task.preprocessor.pixel_values(picture(3, *size(3))))[None]
    with torch.inference_mode():
        seen = encoder(asked).tokens
        found = batch["image_features"] if freeze else encoder(batch["pixel_values"]).tokens
    torch.testing.assert_close(found, seen, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("tokenize", "resize", "told"),
    [
        (PREPARED, {"crop": 0.8}, r"by resample lanczos, .* by resample bicubic, .*: set tokenize"),
        (
            PREPARED | {"image_size": [20, 20]},
            None,
            r"images are \[20, 20\] by .* takes \[16, 16\]",
        ),
    ],
)
def test_a_cache_of_other_pixels_is_refused(
    make_job: MakeJob, tmp_path: Path, tokenize: Any, resize: Any, told: str
) -> None:
    cache = cache_of(tmp_path / "data", OTHER, **tokenize)
    with pytest.raises(ConfigError, match=told):
        make_job("image", task=inputs(resize), cache=cache)


def test_a_resize_of_the_loader_s_own_is_not_exported(make_job: MakeJob, tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "data", SAME)
    job = make_job("image", task=inputs(None), cache=cache)
    with pytest.raises(ExportError, match=r"or task\.inputs\.resize of the training"):
        exported(stored(job, tmp_path / "model"), cache, settings_of("image"))
