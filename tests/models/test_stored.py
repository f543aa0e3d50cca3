"""A model folder says everything that is needed to use it, and is refused when it does not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from plumbline.errors import CheckpointError
from plumbline.files import read_json, write_digests
from plumbline.kinds.alignment.model import load_dual_encoder
from plumbline.kinds.vlm.model import Vlm, VlmSpec
from plumbline.kinds.vlm.settings import VlmConfig
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.transform_config import Normalization
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.encoders import build_encoder
from plumbline.models.projector_config import MlpConfig
from plumbline.models.stored import load_as, load_encoder, load_model, save_model
from plumbline.tokenization.tokenizer import SpecialIds, load_tokenizer


@pytest.fixture
def copy(aligned_folder: Path, tmp_path: Path) -> Path:
    """A copy of the aligned encoders that a test may damage."""
    shutil.copytree(aligned_folder, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def vlm_folder(aligned_folder: Path, tmp_path: Path) -> tuple[Path, Vlm, Tokenizer]:
    stored = load_dual_encoder(aligned_folder)
    assert stored.spec.model.image_encoder is not None
    normalize = Normalization(preset=None, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    spec = VlmSpec(
        image_encoder=stored.spec.model.image_encoder,
        model=VlmConfig(
            projector=MlpConfig(name="mlp", width=16),
            decoder=DecoderConfig(width=16, layers=1, heads=2, kv_heads=1, mlp_width=16),
        ),
        vocab_size=300,
        special_ids=SpecialIds(pad=0, bos=1, eos=2),
        inputs=ImageInputConfig(modality="image", normalize=normalize),
        max_text_tokens=20,
        caption_prompt="describe the image",
    )
    torch.manual_seed(1)
    model = Vlm(build_encoder(spec.image_encoder), spec.model, spec.vocab_size, 0)
    folder = tmp_path / "vlm"
    folder.mkdir()
    save_model(folder, model, spec, stored.tokenizer)
    write_digests(folder)
    return folder, model, stored.text


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_vlm_comes_back_whole(vlm_folder: tuple[Path, Vlm, Tokenizer]) -> None:
    folder, model, tokenizer = vlm_folder
    stored = load_model(folder)
    assert same_weights(stored.model, model)
    assert not stored.model.training
    assert stored.spec.normalization.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert stored.text.to_str() == tokenizer.to_str()
    architecture = "pretrained/decoder/config.json"
    assert set(stored.digests) == {
        *("model.safetensors", "model.json", "tokenizer.json", architecture)
    }


def test_storing_a_loaded_model_again_gives_the_same_bytes(
    vlm_folder: tuple[Path, Vlm, Tokenizer], tmp_path: Path
) -> None:
    stored = load_model(vlm_folder[0])
    again = tmp_path / "again"
    again.mkdir()
    save_model(again, stored.model, stored.spec, stored.tokenizer)
    write_digests(again)
    assert read_json(again / "digests.json") == stored.digests


def test_a_dual_encoder_comes_back_evaluating(aligned_folder: Path) -> None:
    stored = load_dual_encoder(aligned_folder)
    assert not stored.model.training
    assert stored.spec.vocab_size == 300
    assert load_tokenizer(aligned_folder).to_str() == stored.text.to_str()


def test_the_image_side_alone_is_that_of_the_pair(aligned_folder: Path) -> None:
    whole = load_dual_encoder(aligned_folder)
    encoder, part, digest = load_encoder(aligned_folder)
    assert same_weights(encoder, whole.model.image_encoder)
    assert part == whole.spec.encoder_part()
    assert part.name == "image_encoder"
    assert digest == whole.digests["model.safetensors"]


def test_another_kind_of_model_is_refused_by_name(
    vlm_folder: tuple[Path, Vlm, Tokenizer], aligned_folder: Path
) -> None:
    with pytest.raises(
        CheckpointError, match="vlm: a model of kind vlm has no encoder to start from"
    ):
        load_encoder(vlm_folder[0])
    with pytest.raises(CheckpointError, match="holds a model of kind alignment, not vlm"):
        load_as(aligned_folder, VlmSpec)


def test_an_unknown_key_in_the_spec_is_named(copy: Path) -> None:
    spec = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    spec["model"]["colour"] = 1
    (copy / "model.json").write_text(json.dumps(spec), encoding="utf-8")
    write_digests(copy)
    with pytest.raises(CheckpointError, match=r"model\.colour: .*written by another version"):
        load_dual_encoder(copy)


def test_a_changed_file_is_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for load in (load_dual_encoder, load_encoder):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: its bytes changed"):
            load(copy)


@pytest.mark.parametrize(
    "name",
    [
        "model.json",
        "model.safetensors",
    ],
)
def test_a_published_folder_that_is_no_model_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    write_digests(copy)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_encoder(copy)
