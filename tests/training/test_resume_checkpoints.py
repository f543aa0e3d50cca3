"""What starts from a checkpoint, with and without an adapter: killed and resumed, the same bits."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import ConfigError
from plumbline.files import read_json
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.adapters import attach_adapters
from plumbline.training.task import JobContext, TrainingJob
from tests.checkpoints import record_checkpoint, write_checkpoint
from tests.conftest import store
from tests.tiny import TEXT
from tests.training.test_resume_tasks import Killed, killed_at, run, train

MakeJob = Callable[..., TrainingJob]
Caches = Callable[[str], TrainingCache]

THEIRS = {"pretrained": "theirs"}
IMAGE = {"name": "transformers", **THEIRS}
SENTENCES = TEXT | THEIRS | {"pooling": "checkpoint"}
NEW = range(20, 25)
SOUND = {"name": "transformers_audio", **THEIRS}
HEARD = {"inputs": {"modality": "audio", "form": "checkpoint", "augment": {"gain_db": 3.0}}}
WHOLE: dict[str, Any] = {
    "image_encoder": IMAGE,
    "projector": {"name": "pixel_shuffle", **THEIRS},
    "decoder": THEIRS,
}
SEEN = {"inputs": {"modality": "image", "normalize": {"preset": "checkpoint"}}}
LORA: dict[str, Any] = {"rank": 2, "alpha": 4.0}
STARTS: dict[str, tuple[str, str, dict[str, Any], dict[str, dict[str, Any]]]] = {
    "decoder": ("causal_lm_rows", "qwen3", {"decoder": THEIRS}, {}),
    "decoder, lora": ("causal_lm_rows", "llama", {"decoder": THEIRS}, {"decoder": LORA}),
    "decoder, lora and new tokens": (
        "causal_lm_rows",
        "qwen3",
        {"decoder": THEIRS},
        {"decoder": LORA | {"new_tokens": True}},
    ),
    "decoder of images, qlora and new tokens": (
        "vlm",
        "llama",
        {"decoder": THEIRS},
        {"decoder": LORA | {"quantize": "nf4", "new_tokens": True}},
    ),
    "decoder, capped logits": ("causal_lm_rows", "gemma3", {"decoder": THEIRS}, {}),
    "decoder, qlora": (
        "causal_lm_answers",
        "qwen3",
        {"decoder": THEIRS},
        {"decoder": LORA | {"quantize": "nf4"}},
    ),
    "decoder of images, capped logits": ("vlm", "gemma3", {"decoder": THEIRS}, {}),
    "masked": ("masked_lm_rows", "masked_bert", THEIRS, {"encoder": LORA}),
    "encoder-decoder, dora": ("seq2seq", "bart", THEIRS, {"net": LORA | {"method": "dora"}}),
    "encoder-decoder of relative places": ("seq2seq", "t5", THEIRS, {}),
    "text encoder": ("text", "bert", {"encoder": TEXT | THEIRS}, {"encoder": LORA}),
    "sentence encoder": ("text", "sentences", {"encoder": SENTENCES}, {}),
    "sentence encoder, lora": (
        "align_image",
        "sentences",
        {"text_encoder": SENTENCES},
        {"text_encoder": LORA},
    ),
    "image encoder": ("align_image", "siglip", {"image_encoder": IMAGE}, {}),
    "image encoder of a classifier": ("image", "siglip", {"encoder": IMAGE}, {}),
    "both towers of a pair": (
        "align_image",
        "clip",
        {"image_encoder": IMAGE, "text_encoder": TEXT | THEIRS | {"pooling": "pooler"}},
        {},
    ),
    "image encoder, lora": (
        "align_image",
        "siglip",
        {"image_encoder": IMAGE, "text_encoder": TEXT},
        {"image_encoder": LORA | {"dropout": 0.1}},
    ),
    "spectrogram encoder": ("align_audio", "whisper", {"audio_encoder": SOUND}, {}),
    "spectrogram encoder, lora": ("audio", "whisper", {"encoder": SOUND}, {"encoder": LORA}),
    "waveform encoder": ("audio", "wav2vec2", {"encoder": SOUND}, {}),
    "waveform encoder of group norm": ("audio", "hubert", {"encoder": SOUND}, {}),
    "waveform encoder, dora": (
        "align_audio",
        "wavlm",
        {"audio_encoder": SOUND},
        {"audio_encoder": LORA | {"method": "dora"}},
    ),
    "whole model": ("vlm_turns", "smolvlm", WHOLE, {}),
    "whole model, lora": ("vlm_turns", "smolvlm", WHOLE, {"decoder": LORA}),
    "whole model, qlora": ("vlm_turns", "smolvlm", WHOLE, {"decoder": LORA | {"quantize": "nf4"}}),
    "decoder of images, qlora": (
        "vlm",
        "qwen3",
        {"decoder": THEIRS},
        {"decoder": LORA | {"quantize": "nf4", "dropout": 0.1}},
    ),
}
"""Case, checkpoint, what of the model starts from it, and adapters."""


def build(make_job: MakeJob, caches: Caches, weights: Path, start: str) -> TrainingJob:
    case, _, model, adapters = STARTS[start]
    given: dict[str, Any] = {}
    if "audio" in case:
        given = {"task": HEARD, "cache": caches("voices")}
    elif "projector" in model:
        given = {"task": SEEN}
    job = make_job(case, model=model, weights=weights, **given)
    configs = {part: AdapterConfig.model_validate(config) for part, config in adapters.items()}
    put_on = attach_adapters(
        job.model,
        configs,
        seed=0,
        compute_dtype=torch.float32,
        new_tokens={part: NEW for part, config in configs.items() if config.new_tokens},
    )
    return replace(job, adapters=put_on)


@pytest.mark.parametrize("start", STARTS)
def test_a_training_from_a_checkpoint_goes_on_exactly(
    make_job: MakeJob,
    caches: Caches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    weights = record_checkpoint(write_checkpoint(STARTS[start][1], tmp_path / "theirs"))
    whole = train(build(make_job, caches, weights, start), run(), "whole")
    passes = 2 if STARTS[start][0].startswith("align") else 1  # forward ones of a micro-batch
    for kills in (1, 2, 3):
        job = build(make_job, caches, weights, start)
        dying = killed_at(job.task, kills * passes)
        with pytest.raises(Killed):
            train(
                replace(job, task=dying, validation_task=job.validation_task or job.task),
                run(),
                "parted",
            )
    assert list(Path(".ckpt").rglob("step-*"))
    assert train(build(make_job, caches, weights, start), run(workers=2), "parted") == whole
    for file in Path("whole").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file
    # What was trained is whole without the checkpoint, and without adapters.
    (tmp_path / "theirs").rename(tmp_path / "gone")
    stored = load_model(Path("whole"))
    assert not [name for name in stored.model.state_dict() if "lora" in name]
    figures = read_json(Path("whole/metrics.json")).get("adapters", {})
    assert set(figures) == set(STARTS[start][3])
    assert all(figure["merged_difference"] <= 1e-5 for figure in figures.values())


def test_another_byte_in_a_checkpoint_is_another_training_and_another_folder_is_not(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = write_checkpoint("qwen3", tmp_path / "first")

    def inputs(folder: Path) -> dict[str, str]:
        weights = record_checkpoint(folder)
        return dict(make_job("causal_lm_rows", model={"decoder": THEIRS}, weights=weights).inputs)

    one = inputs(first)
    moved = first.rename(tmp_path / "second")
    assert inputs(moved) == one
    other = write_checkpoint("qwen3", tmp_path / "third", seed=1)
    changed = inputs(other)
    assert {name for name in one if one[name] != changed[name]} == {"decoder/model.safetensors"}


@pytest.mark.parametrize(
    ("case", "model", "other", "part"),
    [
        ("causal_lm_rows", {}, "causal_lm_answers", "decoder"),
        ("vlm", {}, "causal_lm_rows", "decoder"),
        ("causal_lm_rows", {}, "vlm", "decoder"),
        ("masked_lm_rows", {}, "masked_lm_stream", "encoder"),
        ("seq2seq", {}, "seq2seq", "net"),
    ],
)
def test_what_this_pipeline_trained_is_a_checkpoint_too(
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    model: dict[str, Any],
    other: str,
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = make_job(case, model=model)
    (tmp_path / "models/tasks/first").mkdir(parents=True)
    store(trained, tmp_path / "models/tasks/first")
    # Their datasets have tokenizers of their own; ids are not what is looked at here.
    (tmp_path / "models/tasks/first/tokenizer.json").unlink()
    weights = record_checkpoint(Path("models/tasks/first"))
    settings = {"decoder": THEIRS} if part == "decoder" else THEIRS
    job = make_job(other, model=settings, weights=weights)
    expected = trained.model.get_submodule(part).state_dict()
    found = job.model.get_submodule(part).state_dict()
    rows = {name for name in expected if found[name].shape != expected[name].shape}
    assert all("embed" in name or "lm_head" in name for name in rows)  # grown to the vocabulary
    for name in expected.keys() - rows:
        assert torch.equal(found[name], expected[name]), name
    for name in rows:
        assert torch.equal(found[name][: len(expected[name])], expected[name]), name


def test_a_checkpoint_that_reads_other_ids_is_refused(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first token alone has moved; tokens that the dataset's has more are no matter."""
    monkeypatch.chdir(tmp_path)
    folder = write_checkpoint("qwen3", tmp_path / "theirs")
    own = make_job("causal_lm_rows").tokenizer
    assert own is not None
    own.save(str(folder / "tokenizer.json"))
    weights = record_checkpoint(folder)
    make_job("causal_lm_rows", model={"decoder": THEIRS}, weights=weights)
    content = read_json(folder / "tokenizer.json")
    vocab = content["model"]["vocab"]
    first, second = list(vocab)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    weights = record_checkpoint(folder)
    with pytest.raises(ConfigError, match=r"weights\.theirs: token .* has id .* there and .* in "):
        make_job("causal_lm_rows", model={"decoder": THEIRS}, weights=weights)


def test_new_tokens_are_those_that_the_checkpoint_s_tokenizer_does_not_have(
    make_job: MakeJob,
    caches: Callable[[str], TrainingCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_checkpoint("qwen3", tmp_path / "theirs")
    cache = caches("text")
    setting = "adapters.decoder.new_tokens"
    context = JobContext(cache=cache, seed=0, weights=record_checkpoint(folder))
    with pytest.raises(ConfigError, match=rf"{setting}: weights\.theirs has no tokenizer\.json"):
        context.new_tokens(setting, "theirs")
    content = read_json(cache.folder / "tokenizer.json")
    vocab = content["model"]["vocab"]
    last = sorted(vocab.values())[-3:]
    for name in [name for name, number in vocab.items() if number in last]:
        del vocab[name]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    record_checkpoint(folder)
    assert context.new_tokens(setting, "theirs") == last
    whole = (cache.folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(whole)
    record_checkpoint(folder)
    with pytest.raises(ConfigError, match=r"has no token that weights\.theirs does not have"):
        context.new_tokens(setting, "theirs")
