"""Images of one channel stay so from the cache through alignment to the bundle of a VLM."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from plumbline.cli.main import call
from plumbline.errors import DataError
from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.files import dump_json, read_json, write_digests
from plumbline.kinds.vlm.settings import VlmExportConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model, save_model
from tests.export.opening import model_of
from tests.tiny import CASES, GRAY, VIT, make_cache

MakeJob = Callable[..., Any]


@pytest.fixture(scope="module")
def gray_scenes(scenes_clean: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingCache:
    folder = tmp_path_factory.mktemp("gray")
    (folder / "clean").symlink_to(scenes_clean)
    made: TrainingCache = make_cache(
        folder, {"tokenizer": {"vocab_size": 300}, "image_mode": "gray"}
    )
    return made


def stored(job: Any, folder: Path) -> Path:
    folder.mkdir()
    save_model(folder, job.model, job.spec, job.tokenizer)
    (folder / "config.json").write_text(dump_json({"data": "scenes"}), encoding="utf-8")
    write_digests(folder)
    return folder


@pytest.fixture(scope="module")
def aligned(
    make_job: MakeJob, gray_scenes: TrainingCache, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    job = make_job(
        "align_image",
        model={"image_encoder": VIT | {"channels": 1}},
        task={"inputs": {"modality": "image"} | GRAY},
        cache=gray_scenes,
    )
    return stored(job, tmp_path_factory.mktemp("align") / "image")


def test_the_bundle_of_a_gray_vlm_answers_as_its_checkpoint(
    make_job: MakeJob,
    gray_scenes: TrainingCache,
    aligned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = make_job("vlm", cache=gray_scenes, start=aligned)
    assert job.train.sample(0, 0)["pixels"].shape == (16, 16, 1)
    assert job.task.collate([job.train.sample(0, 0)])["pixel_values"].shape == (1, 1, 16, 16)
    folder, out = stored(job, tmp_path / "vlm"), tmp_path / "out"
    out.mkdir()
    config = VlmExportConfig(max_new_tokens=5, parity_samples=8, selftest_samples=2)
    write_bundle(BundleSource(load_model(folder), gray_scenes, {}, threads=1), config, out)
    write_digests(out)
    for result in read_json(out / "metadata.json")["formats"].values():
        assert result["status"] == "ok"
        assert result["parity"]["token_agreement"] == 1.0
    graph = onnx.load(out / "vision.onnx", load_external_data=False).graph
    assert [axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim[1:]] == [1, 16, 16]
    request = read_json(out / "selftest/selftest.json")["answers"][0]["request"]
    image = out / request["image"]
    expected = model_of(out).predict(request | {"image": image.read_bytes()})["answer"]
    flags = ["--image", str(image), "--question", request["question"], "--max-new-tokens", "5"]
    call(["predict", "any", "--model", str(folder), *flags])
    assert f'"answer": "{expected}"' in capsys.readouterr().out


def test_a_gray_encoder_on_a_cache_in_colour_is_refused_before_training(
    make_job: MakeJob, aligned: Path
) -> None:
    with pytest.raises(DataError, match=r"images have 3 channels, the statistics 1: make task"):
        make_job("vlm", start=aligned)


def test_the_bundle_of_a_gray_classifier_takes_one_channel(
    bundle_of: Callable[..., Path], caches: Callable[[str], TrainingCache]
) -> None:
    bundle = bundle_of("gray")
    for result in read_json(bundle / "metadata.json")["formats"].values():
        assert result["status"] == "ok"
        assert result["parity"]["max_input_difference"] == 0
    task: Any = model_of(bundle).task
    request = read_json(bundle / "selftest/selftest.json")["answers"][0]["request"]
    given = task.inputs({"image": (bundle / request["image"]).read_bytes()})
    assert [np.asarray(value).shape for value in given] == [(1, 1, 16, 16)]
    assert caches(CASES["gray"].data).images.shape[1:] == (16, 16, 1)
