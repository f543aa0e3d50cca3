"""Frozen encoders are computed once per distinct input, and the training is the same."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.errors import DamagedInputError, OutputError
from plumbline.files import read_json
from plumbline.loading import digest_check
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.kept_features import as_tensor
from plumbline.models.encoders import Encoder
from plumbline.training import frozen_features
from plumbline.training.compile_config import CompileConfig
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.task import JobContext, TrainingJob
from tests.training.test_resume_tasks import Killed, killed_at, run, train
from tests.training.together import ALONE, Together, exact, gradients_of

MakeJob = Callable[..., TrainingJob]

PLAIN = {"inputs": {"modality": "image"}}
"""Images that nothing changes."""
SOUND = {"inputs": {"modality": "audio", "sample_rate": 8000, "n_mels": 12, "fft": 128}}
SOUND["inputs"] |= {"window_ms": 16.0, "hop_ms": 5.0}
BOTH = ["image_encoder", "text_encoder"]
FORMS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "alignment, images": ("align_image", PLAIN, ["image_encoder"]),
    "alignment, texts": ("align_image", {}, ["text_encoder"]),
    "alignment, both": ("align_image", PLAIN, BOTH),
    "alignment, sounds": ("align_audio", SOUND, ["audio_encoder", "text_encoder"]),
    "alignment, raw texts": ("align_ngrams", {}, BOTH),
    "classes of images": ("image", PLAIN, ["encoder"]),
    "classes of texts": ("text", {}, ["encoder"]),
    "classes of sounds": ("audio", SOUND, ["encoder"]),
    "classes of features": ("features", {}, ["encoder"]),
    "numbers": ("regression", {}, ["encoder"]),
    "questions": ("vlm", {"rows": "packed"}, ["image_encoder"]),
    "conversations": ("vlm_turns", {}, ["image_encoder"]),
}
"""A case of every kind that has an encoder, with settings and what is frozen of it."""


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def make(make_job: MakeJob) -> MakeJob:
    def job(form: str, **context: Any) -> TrainingJob:
        name, task, freeze = FORMS[form]
        return make_job(name, task=task, **({"freeze": freeze} | context))

    return job


def on(precision: str = "fp32", compiled: str = "none") -> Machine:
    return replace(ALONE, precision=precision, compile=compiled)


def folders() -> list[Path]:
    return [path for path in Path(".plumbline/features").glob("*") if path.is_dir()]


def bytes_kept() -> int:
    return sum((folder / "features.bin").stat().st_size for folder in folders())


def losses(out: str) -> list[float]:
    rows = (Path(out) / "train.csv").read_text().splitlines()
    at = rows[0].split(",").index("loss")
    return [float(row.split(",")[at]) for row in rows[1:]]


@pytest.mark.parametrize("form", list(FORMS))
def test_kept_features_train_as_those_that_are_computed_at_each_step(
    make: MakeJob, form: str
) -> None:
    freeze = FORMS[form][2]
    train(make(form), run(freeze=freeze), "kept")
    assert len(folders()) == len(freeze)
    train(make(form, keep_features=False), run(freeze=freeze), "each")
    assert len(losses("kept")) >= 5
    assert losses("kept") == pytest.approx(losses("each"), rel=1e-6)


@pytest.mark.parametrize("form", list(FORMS))
def test_a_distinct_input_is_encoded_once_and_no_step_encodes_it_again(
    make: MakeJob, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Encoder, int]] = []
    call = Encoder.__call__

    def counted(self: Encoder, *arguments: Any, **inputs: Any) -> Any:
        out = call(self, *arguments, **inputs)
        seen.append((self, len(out.pooled)))
        return out

    def encoded(job: TrainingJob) -> int:
        """Inputs of frozen encoders since the last time."""
        parts = [job.model.get_submodule(name) for name in FORMS[form][2]]
        count = sum(number for module, number in seen if module in parts)
        seen.clear()
        return count

    monkeypatch.setattr(Encoder, "__call__", counted)
    job = make(form)
    ones = len(FORMS[form][2])  # one input each, to learn the shape
    assert encoded(job) == ones + sum(rows_of(folder) for folder in folders())
    train(job, run(freeze=FORMS[form][2]), "out")
    assert encoded(job) == 0
    assert encoded(make(form)) == ones  # what lies there is read


def rows_of(folder: Path) -> int:
    shape: list[int] = read_json(folder / "features.json")["shape"]
    return shape[0]


@pytest.mark.parametrize("epoch", [0, 1])
def test_each_sample_gets_what_the_encoder_makes_of_its_own_medium_and_caption(
    make: MakeJob, epoch: int
) -> None:
    """Whatever the order in which they were encoded, and whichever caption is drawn."""
    kept, each = make("alignment, both"), make("alignment, both", keep_features=False)
    one, other = (
        job.task.collate(job.train.samples(np.arange(20), epoch))  # type: ignore[attr-defined]
        for job in (kept, each)
    )
    model = each.model.eval()
    assert torch.equal(one["text_index"], other["text_index"])
    with torch.inference_mode():
        images = model.get_submodule("image_encoder")(**other["media"]).pooled
        texts = model.get_submodule("text_encoder")(**other["texts"]).pooled
    torch.testing.assert_close(one["media"]["kept"], images, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one["texts"]["kept"], texts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text_dropout", [0.0, 0.2])
def test_texts_that_are_equal_where_they_are_cut_are_one(
    make_job: MakeJob, caches: Callable[[str], TrainingCache], text_dropout: float
) -> None:
    task = PLAIN | {"max_text_tokens": 2, "text_dropout": text_dropout}
    make_job("align_image", task=task, freeze=["text_encoder"])
    cache = caches("scenes")
    numbers = np.concatenate([cache.rows(split)["caption"] for split in ("train", "val")])
    texts = set(numbers[numbers >= 0].tolist())
    ids = {tuple(cache.ids(number)[:2].tolist()) for number in texts}
    assert len(ids) < len(texts)
    assert rows_of(folders()[0]) == len(ids) + (text_dropout > 0)  # and the empty one


@pytest.mark.parametrize("form", ["alignment, both", "alignment, texts", "classes of texts"])
def test_a_killed_training_goes_on_to_the_same_bits(make: MakeJob, form: str) -> None:
    settings = run(freeze=FORMS[form][2])
    whole = train(make(form), settings, "whole")
    for passes in (2, 0, 3):
        job = make(form)
        validation = job.validation_task or job.task
        broken = replace(job, task=killed_at(job.task, passes), validation_task=validation)
        with pytest.raises(Killed):
            train(broken, settings, "parted")
    assert train(make(form), run(freeze=FORMS[form][2], workers=2), "parted") == whole


@pytest.mark.parametrize("form", ["alignment, both", "classes of images", "conversations"])
def test_any_number_of_workers_ends_in_the_same_bits(make: MakeJob, form: str) -> None:
    freeze = FORMS[form][2]
    found = [train(make(form), run(n, freeze=freeze), f"workers-{n}") for n in (0, 1, 4)]
    assert found[1] == found[0]
    assert found[2] == found[0]


@pytest.mark.parametrize("form", ["alignment, both", "alignment, texts", "questions"])
def test_two_processes_find_the_gradients_of_one(
    make: MakeJob, together: Together, form: str
) -> None:
    job = exact(make(form))
    sums, expected = gradients_of(job, Processes(), 3)
    for found, gradients in together(lambda p: gradients_of(job, p, 3)):
        assert found.total == pytest.approx(sums.total, rel=1e-6)
        limit = 1e-9 * max(float(gradient.abs().max()) for gradient in expected.values())
        for parameter, gradient in expected.items():
            torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-6, atol=limit)


@pytest.mark.parametrize("form", ["alignment, both", "classes of texts", "questions"])
def test_half_precision_takes_half_the_disk_and_trains(make: MakeJob, form: str) -> None:
    full = make(form)
    whole = bytes_kept()
    shutil.rmtree(".plumbline")
    half = make(form, machine=on("bf16"))
    assert 2 * bytes_kept() == whole
    settings = run(freeze=FORMS[form][2], precision="bf16")
    train(half, settings, "half")  # with its validation, whose figures know no autocast
    train(full, run(freeze=FORMS[form][2]), "full")
    assert losses("half") == pytest.approx(losses("full"), rel=0.05)


def test_half_precision_rounds_what_full_precision_computed(make: MakeJob) -> None:
    """And bfloat16 survives numpy, which does not have it."""

    def features(precision: str) -> torch.Tensor:
        shutil.rmtree(".plumbline", ignore_errors=True)
        job = make("classes of images", machine=on(precision))
        found: torch.Tensor = job.task.collate([job.train.sample(i, 0) for i in range(8)])["inputs"]
        return found["kept"]  # type: ignore[index,call-overload,no-any-return]

    full, half = features("fp32"), features("bf16")
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0.02, atol=0.02)
    bits = full.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert torch.equal(as_tensor(bits), full.to(torch.bfloat16))


REASONS: dict[str, tuple[str, dict[str, Any], list[str], dict[str, Any], str]] = {
    "augmented": ("align_image", {}, ["image_encoder"], {}, "task.inputs.augment changes images"),
    "moved": ("audio", {}, ["encoder"], {}, "task.inputs.augment changes clips"),
    "words": ("text_words", {}, ["encoder"], {}, "task.inputs.word_dropout leaves words out"),
    "in part": ("text", {}, ["encoder.encoder"], {}, "train.freeze names encoder.encoder alone"),
    "off": ("vlm", {}, ["image_encoder"], {"keep_features": False}, "keep_features is false"),
}


@pytest.mark.parametrize("reason", list(REASONS))
def test_what_is_not_kept_is_said_with_the_reason(
    make_job: MakeJob, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    name, task, freeze, context, said = REASONS[reason]
    with caplog.at_level(logging.INFO):
        make_job(name, task=task, freeze=freeze, **context)
    lines = [record.getMessage() for record in caplog.records if "frozen" in record.getMessage()]
    assert len(lines) == 1
    assert said in lines[0]
    assert not folders()


def test_one_vector_a_step_is_not_kept(make_job: MakeJob, caplog: pytest.LogCaptureFixture) -> None:
    from tests.tiny import SEQUENCE

    model = {"encoder": SEQUENCE | {"pooling": "none"}}
    with caplog.at_level(logging.INFO):
        make_job("features", model=model, freeze=["encoder"])
    assert "as many vectors as that is long" in caplog.text
    assert not folders()


def test_an_encoder_of_sources_is_said_to_be_computed_at_each_step(
    make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        make_job("seq2seq", freeze=["net.model.encoder"])
    assert "net.model.encoder is frozen, but computed at each step" in caplog.text


def test_nothing_frozen_is_nothing_to_say(
    make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        make_job("align_image", freeze=[])
    assert "frozen" not in caplog.text
    assert not folders()


def test_what_is_kept_is_said_with_its_size(
    make: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        make("questions")
        make("questions")
    (folder,) = folders()
    said = [r.getMessage() for r in caplog.records if r.name == frozen_features.__name__]
    assert len(said) == 2
    assert "image_encoder is frozen: its features of 40 images are computed once" in said[0]
    assert f"as fp32 in {folder}" in said[0]
    assert "are there" in said[1]


def test_a_disk_without_room_is_refused_before_anything_is_encoded(
    make: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"take .* MiB, and .* are free.*keep_features"):
        make("questions")
    assert not folders()


def test_a_disk_that_fills_up_leaves_nothing(
    make: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="raise the limit"):
            make("questions")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not folders()
    assert not list(Path(".plumbline/features").glob(".*"))
    make("questions")
    assert len(folders()) == 1


@pytest.mark.parametrize("how", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_encoding_is_not_believed(
    make: MakeJob, monkeypatch: pytest.MonkeyPatch, how: type[BaseException]
) -> None:
    monkeypatch.setattr(frozen_features, "BATCH_VALUES", 16)
    whole = make("questions")
    expected = (folders()[0] / "features.bin").read_bytes()
    shutil.rmtree(".plumbline")
    calls = iter(range(100))
    call = frozen_features._Encoding.__call__

    def dying(self: Any, batch: Any) -> Any:
        if next(calls) == 1:
            raise how
        return call(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(frozen_features._Encoding, "__call__", dying)
        with pytest.raises(how):
            make("questions")
    assert not folders()
    again = make("questions")
    assert (folders()[0] / "features.bin").read_bytes() == expected
    sample = again.train.sample(3, 0)["features"]
    assert np.array_equal(sample, whole.train.sample(3, 0)["features"])
    assert not sample.flags.writeable


def test_what_a_killed_process_left_is_not_read(make: MakeJob) -> None:
    make("questions")
    (folder,) = folders()
    expected = (folder / "features.bin").read_bytes()
    half = folder.with_name(f".{folder.name}.partial-1")
    shutil.copytree(folder, half)
    (half / "features.bin").write_bytes(expected[:100])
    shutil.rmtree(folder)
    make("questions")
    assert (folder / "features.bin").read_bytes() == expected
    assert not half.exists()


def damage(folder: Path) -> None:
    file = folder / "features.bin"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)


def test_damaged_features_are_made_again(make: MakeJob, caplog: pytest.LogCaptureFixture) -> None:
    make("alignment, texts")
    (folder,) = folders()
    expected = (folder / "features.bin").read_bytes()
    damage(folder)
    make("alignment, texts")
    assert (folder / "features.bin").read_bytes() == expected
    assert "features.bin: its bytes changed" in caplog.text


def test_damage_of_many_features_ends_the_training_before_anything_is_published(
    make: MakeJob, monkeypatch: pytest.MonkeyPatch, caches: Callable[[str], TrainingCache]
) -> None:
    monkeypatch.setattr(digest_check, "LARGE_BYTES", 100)
    make("classes of texts")
    (folder,) = folders()
    damage(folder)
    checks: list[Callable[[], None]] = []
    job = make("classes of texts", checks=checks)
    assert len(checks) == 1
    context = JobContext(cache=caches("reviews"), seed=0, checks=checks)
    with pytest.raises(DamagedInputError, match="made again by the next run"):
        train(replace(job, confirm=context.confirm), run(freeze=["encoder"]), "out")
    assert not Path("out").exists()
    assert not folders()


def test_features_of_a_damaged_cache_are_never_published(
    make_job: MakeJob, scenes_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(scenes_cache, copy)
    pixels = bytearray((copy / "images.bin").read_bytes())
    pixels[7] ^= 1
    (copy / "images.bin").write_bytes(pixels)
    monkeypatch.setattr(digest_check, "LARGE_BYTES", 1000)
    cache = TrainingCache(copy, confirm_later=True)
    with pytest.raises(DamagedInputError, match=r"images\.bin"):
        make_job("vlm", freeze=["image_encoder"], cache=cache)
    assert not folders()


def test_other_weights_precision_or_settings_are_other_features(make: MakeJob) -> None:
    make("classes of images")
    make("classes of images", seed=1)  # its weights are drawn from it
    assert len(folders()) == 2
    make("classes of images", machine=on("bf16"))
    assert len(folders()) == 3
    make("classes of images")
    assert len(folders()) == 3


def test_another_way_of_preparing_the_input_is_another_feature(make_job: MakeJob) -> None:
    for preset in ("half", "clip"):
        inputs = {"modality": "image", "normalize": {"preset": preset}}
        make_job("image", task={"inputs": inputs}, freeze=["encoder"])
    assert len(folders()) == 2


def test_a_batch_that_does_not_fit_is_encoded_in_halves(
    make: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make("questions")
    expected = np.fromfile(folders()[0] / "features.bin", np.float32)
    shutil.rmtree(".plumbline")
    call, sizes = frozen_features._Encoding.__call__, []

    def small(self: Any, batch: Any) -> Any:
        sizes.append(len(batch["pixel_values"]))
        if sizes[-1] > 10:
            raise torch.OutOfMemoryError
        return call(self, batch)

    monkeypatch.setattr(frozen_features._Encoding, "__call__", small)
    make("questions")
    assert sizes == [40, 20, 10, 10, 10, 10]
    assert "out of memory" in caplog.text
    found = np.fromfile(folders()[0] / "features.bin", np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("form", ["alignment, texts", "classes of images"])
def test_compiled_encoding_makes_one_program_and_the_same_features(
    make: MakeJob, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Of one batch size: the last batch is filled up; lengths stay open."""
    monkeypatch.setattr(frozen_features, "BATCH_VALUES", 16)
    make(form)
    plain = np.fromfile(folders()[0] / "features.bin", np.float32)
    assert rows_of(folders()[0]) % 16  # else the last batch would be full
    shutil.rmtree(".plumbline")
    counters = torch._dynamo.utils.counters["stats"]
    before, sizes = counters["unique_graphs"], set()
    call = frozen_features._Encoding.__call__

    def watched(self: Any, batch: Any) -> Any:
        out = call(self, batch)
        sizes.add(len(out))
        return out

    monkeypatch.setattr(frozen_features._Encoding, "__call__", watched)
    make(form, machine=on(compiled="default"), compile=CompileConfig(fullgraph=True))
    assert sizes == {16}  # another size would be computed without a program
    assert counters["unique_graphs"] - before == 1
    compiled = np.fromfile(folders()[0] / "features.bin", np.float32)
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fresh_compiler")
def test_what_cannot_be_compiled_is_encoded_all_the_same(
    make: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make("classes of images")
    plain = (folders()[0] / "features.bin").read_bytes()
    shutil.rmtree(".plumbline")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise torch._dynamo.exc.BackendCompilerFailed(refuse, RuntimeError("no such kernel"), None)

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", refuse)
    make("classes of images", machine=on(compiled="default"))
    assert "goes on uncompiled" in caplog.text
    assert (folders()[0] / "features.bin").read_bytes() == plain
