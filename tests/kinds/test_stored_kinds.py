"""Every kind of model comes back from its folder as it was, and as no other kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
)

from plumbline.batch import Batch
from plumbline.errors import CheckpointError, ConfigError
from plumbline.files import read_json, write_digests
from plumbline.kind import known_kinds
from plumbline.kinds.alignment.model import load_dual_encoder
from plumbline.kinds.causal_lm.model import CausalLmSpec
from plumbline.kinds.classification.model import ClassifierSpec
from plumbline.kinds.masked_lm.model import MaskedLmSpec
from plumbline.kinds.seq2seq.model import Seq2SeqSpec
from plumbline.kinds.vlm.model import VlmSpec
from plumbline.models.spec import ModelSpec
from plumbline.models.stored import load_as, load_encoder, load_model, read_spec, save_model
from plumbline.training.task import TrainingJob
from tests.checkpoints import record_checkpoint
from tests.tiny import CASES, TEXT

MakeJob = Callable[..., TrainingJob]
Folders = Callable[[str], Path]


def store(job: TrainingJob, folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_model(folder, job.model, job.spec, job.tokenizer)
    write_digests(folder)
    return folder


def outputs(job: TrainingJob, model: Any) -> list[Tensor]:
    """What a model says of the first samples: logits, or embeddings."""
    model.eval()
    batch: Batch = job.task.collate([job.train.sample(index, 0) for index in range(4)])
    with torch.inference_mode():
        if job.spec.kind == "vlm":
            features = model.image_encoder(batch["pixel_values"]).tokens
            names = ("input_ids", "position_ids", "mask", "image_places")
            rest = (batch.get(name) for name in names)
            return [model.logits(model.hidden_states(features, *rest))]
        if job.spec.kind == "alignment":
            return list(model(batch["media"], batch["texts"]))
        said = model(**batch.get("inputs", batch))
    return list(said.values()) if isinstance(said, dict) else [said]


def test_every_kind_of_model_has_a_case() -> None:
    kinds = known_kinds()
    assert {case.kind for case in CASES.values()} == set(kinds)
    for name, kind in kinds.items():
        schema = kind.role("model").SPEC
        assert issubclass(schema, ModelSpec)
        assert schema.model_fields["kind"].default == name


@pytest.mark.parametrize("name", list(CASES))
def test_a_model_comes_back_with_the_same_outputs(
    make_job: MakeJob, tmp_path: Path, name: str
) -> None:
    job = make_job(name)
    stored = load_model(store(job, tmp_path / "model"))
    assert not stored.model.training
    assert stored.spec == job.spec
    assert (stored.tokenizer is None) == (job.tokenizer is None)
    for one, other in zip(outputs(job, job.model), outputs(job, stored.model), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", list(CASES))
def test_storing_a_loaded_model_again_gives_the_same_bytes(
    stored_case: Folders, tmp_path: Path, name: str
) -> None:
    stored = load_model(stored_case(name))
    save_model(tmp_path, stored.model, stored.spec, stored.tokenizer)
    write_digests(tmp_path)
    assert read_json(tmp_path / "digests.json") == stored.digests


LOADERS: list[tuple[str, Callable[[Path], object]]] = [
    ("alignment", load_dual_encoder),
    ("vlm", lambda folder: load_as(folder, VlmSpec)),
    ("causal_lm", lambda folder: load_as(folder, CausalLmSpec)),
    ("masked_lm", lambda folder: load_as(folder, MaskedLmSpec)),
    ("seq2seq", lambda folder: load_as(folder, Seq2SeqSpec)),
    ("classification", lambda folder: load_as(folder, ClassifierSpec)),
]


@pytest.mark.parametrize(("kind", "load"), LOADERS)
def test_a_model_of_another_kind_is_refused(
    stored_case: Folders, kind: str, load: Callable[[Path], object]
) -> None:
    for name, case in CASES.items():
        if case.kind == kind:
            assert load(stored_case(name))
        else:
            with pytest.raises(
                CheckpointError, match=rf"holds a model of kind {case.kind}, not {kind}"
            ):
                load(stored_case(name))


def test_only_models_with_an_encoder_are_a_start(stored_case: Folders) -> None:
    for name, case in CASES.items():
        folder = stored_case(name)
        if case.kind in ("alignment", "classification", "regression"):
            encoder, part, digest = load_encoder(folder)
            whole = load_model(folder)
            kept = whole.model.get_submodule(part.name).state_dict()
            assert digest == whole.digests["model.safetensors"]
            assert encoder.state_dict().keys() == kept.keys()
            assert all(torch.equal(kept[key], value) for key, value in encoder.state_dict().items())
        else:
            with pytest.raises(
                CheckpointError, match=f"kind {case.kind} has no encoder to start from"
            ):
                load_encoder(folder)


def test_an_unknown_kind_and_a_folder_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.json: missing; .* holds no model"):
        read_spec(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"kind": "oracle"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="kind 'oracle' is none of alignment, vlm, causal_lm"):
        read_spec(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"model": {}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="kind 'None' is none of"):
        read_spec(tmp_path)


SIZES = {
    "vocab_size": 300,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 90,
}


def checkpoint(kind: str, folder: Path) -> Path:
    """A checkpoint of transformers with sizes of its own, as one from the hub."""
    torch.manual_seed(2)
    if kind == "bart":
        sides = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
        heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
        widths = {f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")}
        bart = BartConfig(
            vocab_size=330,
            d_model=24,
            max_position_embeddings=90,
            forced_bos_token_id=7,
            decoder_start_token_id=2,
            **(sides | heads | widths),
        )
        BartForConditionalGeneration(bart).save_pretrained(folder)
    else:
        {"bert": BertModel, "masked": BertForMaskedLM}[kind](BertConfig(**SIZES)).save_pretrained(
            folder
        )
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "where"),
    [
        ("text", "bert", "encoder"),
        ("align_image", "bert", "text_encoder"),
        ("masked_lm_rows", "masked", None),
        ("seq2seq", "bart", None),
    ],
)
def test_what_came_from_a_checkpoint_is_whole_without_it(
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    where: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(checkpoint(kind, tmp_path / "checkpoint"))
    source = {"pretrained": "theirs"}
    model = {where: {"name": "transformer"} | source} if where else source
    job = make_job(name, model=model, weights=weights)
    assert any(key.endswith("/model.safetensors") for key in job.inputs)
    expected = outputs(job, job.model)
    folder = store(job, tmp_path / "model")
    (tmp_path / "checkpoint").rename(tmp_path / "gone")
    assert "theirs" not in (folder / "model.json").read_text(encoding="utf-8")
    stored = load_model(folder)
    for one, other in zip(expected, outputs(job, stored.model), strict=True):
        assert torch.equal(one, other)


def test_a_start_that_came_from_a_checkpoint_stays_whole(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(checkpoint("bert", tmp_path / "checkpoint"))
    source = {"name": "transformer", "pretrained": "theirs"}
    start = store(make_job("text", model={"encoder": source}, weights=weights), tmp_path / "start")
    job = make_job("text", model={"encoder": None}, start=start)
    stored = load_model(store(job, tmp_path / "model"))
    for one, other in zip(outputs(job, job.model), outputs(job, stored.model), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("text", {"encoder": TEXT | {"pretrained": "nothing"}}),
        ("masked_lm_rows", {"pretrained": "nothing"}),
        ("seq2seq", {"pretrained": "nothing"}),
        ("causal_lm_rows", {"decoder": {"pretrained": "nothing"}}),
    ],
)
def test_a_checkpoint_that_is_not_there_is_one_line(
    make_job: MakeJob, name: str, model: dict[str, Any]
) -> None:
    with pytest.raises(
        ConfigError, match="missing; run dvc repro resolve_weights@nothing"
    ) as caught:
        make_job(name, model=model)
    assert "\n" not in str(caught.value)
