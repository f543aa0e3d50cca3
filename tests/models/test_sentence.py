"""Text encoders of sentence-transformers pool as their folder declares, and stay whole without it.

What is expected is written after the documentation of its modules, a text at a time and unpadded.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, BertModel

from plumbline.errors import ConfigError
from plumbline.models.encoder_config import TextEncoderConfig
from plumbline.models.encoders import check_longest
from plumbline.models.pretrained import Origin, save_architectures, stored_origins
from plumbline.models.text import TextEncoder
from plumbline.models.weights import WEIGHTS, load_weights, plain_state, save_weights
from plumbline.weights.files import describe_files, list_files, of_tokenizer
from tests.checkpoints import record_checkpoint, write_checkpoint
from tests.tiny import TEXT

WIDTH = 32
LENGTHS = (7, 3, 1)
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
FLAGS = {mode: f"pooling_mode_{mode}" for mode in MODES} | {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
}
CONFIG = TextEncoderConfig(name="transformer", pooling="checkpoint")
DENSE = {"in_features": WIDTH, "out_features": 5, "bias": True}
TANH = "torch.nn.modules.activation.Tanh"


def flags(*modes: str) -> dict[str, Any]:
    return {"word_embedding_dimension": WIDTH, **{FLAGS[m]: m in modes for m in MODES}}


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def saved(
    folder: Path,
    pooling: dict[str, Any],
    *behind: dict[str, Any],
    layers: str = "",
    longest: int = 64,
) -> dict[str, Tensor]:
    """Write a folder; `behind` are settings of dense layers, or nothing for a normalisation.

    Returns:
        Weights of the last dense layer.
    """
    old = "sentence_transformers.models"
    modules = [(layers, f"{old}.Transformer"), ("1_Pooling", f"{old}.Pooling")]
    write_checkpoint("bert", folder / layers)
    write(folder / "1_Pooling/config.json", pooling)
    write(folder / layers / "sentence_bert_config.json", {"max_seq_length": longest})
    weights: dict[str, Tensor] = {}
    for number, settings in enumerate(behind, start=2):
        kind = "Dense" if settings else "Normalize"
        path = f"{number}_{kind}"
        modules.append((path, f"sentence_transformers.base.modules.{kind.lower()}.{kind}"))
        if settings:
            write(folder / path / "config.json", settings)
            weights = {
                "linear.weight": torch.randn(settings["out_features"], settings["in_features"]),
                "linear.bias": torch.randn(settings["out_features"]),
            }
            save_file(weights, folder / path / "model.safetensors")
    listed = [{"idx": i, "path": p, "type": t} for i, (p, t) in enumerate(modules)]
    write(folder / "modules.json", listed)
    return weights


def built(folder: Path) -> TextEncoder:
    origin = Origin(folder, with_weights=True)
    return TextEncoder(CONFIG, vocab_size=500, origin=origin).eval()


def texts() -> tuple[Tensor, Tensor]:
    """Ids [3, 7] of texts of unequal length, noise in the padding, and their mask."""
    ids = torch.randint(5, 500, (3, 7), generator=torch.Generator().manual_seed(0))
    return ids, (torch.arange(7) < torch.tensor(LENGTHS).unsqueeze(1)).long()


def one_pooled(hidden: Tensor, mode: str) -> Tensor:
    """[tokens, width] of one text as [width]."""
    places = torch.arange(1.0, len(hidden) + 1).unsqueeze(1)
    return {
        "cls": hidden[0],
        "max": hidden.amax(0),
        "mean": hidden.mean(0),
        "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5,
        "weightedmean": (hidden * places).sum(0) / places.sum(),
        "lasttoken": hidden[-1],
    }[mode]


@torch.inference_mode()
def expected(folder: Path, *modes: str) -> Tensor:
    """[3, width] of the texts."""
    model: BertModel = AutoModel.from_pretrained(folder).eval()
    ids, _ = texts()
    alone = [model(ids[row : row + 1, :n]).last_hidden_state[0] for row, n in enumerate(LENGTHS)]
    return torch.stack([torch.cat([one_pooled(h, mode) for mode in modes]) for h in alone])


@torch.inference_mode()
def pooled(encoder: TextEncoder) -> Tensor:
    ids, mask = texts()
    found = encoder(input_ids=ids, attention_mask=mask).pooled
    assert found.shape[1] == encoder.width
    return found


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        *((flags(mode), [mode]) for mode in MODES),
        (flags("lasttoken", "cls", "mean"), ["cls", "mean", "lasttoken"]),
        ({"embedding_dimension": WIDTH, "pooling_mode": "weightedmean"}, ["weightedmean"]),
        ({"embedding_dimension": WIDTH, "pooling_mode": ["max", "cls"]}, ["max", "cls"]),
        ({"word_embedding_dimension": WIDTH, "include_prompt": False}, ["mean"]),
    ],
)
def test_tokens_are_pooled_as_the_folder_declares(
    pooling: dict[str, Any], modes: list[str], tmp_path: Path
) -> None:
    saved(tmp_path, pooling)
    found = pooled(built(tmp_path))
    torch.testing.assert_close(found, expected(tmp_path, *modes), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", ["", "0_Transformer"])
def test_dense_layers_and_normalisation_follow_in_order(layers: str, tmp_path: Path) -> None:
    weights = saved(
        tmp_path, flags("mean"), DENSE | {"activation_function": TANH}, {}, layers=layers
    )
    linear = expected(tmp_path / layers, "mean") @ weights["linear.weight"].T
    vectors = torch.tanh(linear + weights["linear.bias"])
    encoder = built(tmp_path)
    found = pooled(encoder)
    assert encoder.width == 5
    lengths = vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, vectors / lengths, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", ["", "0_Transformer"])
def test_what_came_from_a_folder_is_whole_without_it(layers: str, tmp_path: Path) -> None:
    saved(tmp_path / "theirs", flags("cls", "mean"), {}, layers=layers)
    encoder = built(tmp_path / "theirs")
    save_weights(encoder, tmp_path / WEIGHTS)
    save_architectures(tmp_path, encoder.architectures("text_encoder"))
    stored = stored_origins(tmp_path)["text_encoder"]
    again = TextEncoder(CONFIG, vocab_size=500, origin=stored).eval()
    load_weights(again, tmp_path / WEIGHTS)
    assert torch.equal(pooled(again), pooled(encoder))
    assert set(plain_state(again)) == set(plain_state(encoder))


def test_every_file_that_shapes_a_vector_is_digested(tmp_path: Path) -> None:
    identity = {"activation_function": "torch.nn.modules.linear.Identity"}
    saved(tmp_path, flags("mean"), DENSE | identity, layers="0_Transformer")
    (tmp_path / "0_Transformer/tokenizer.json").write_text("{}", encoding="utf-8")
    described = describe_files(tmp_path)
    assert set(described) == {
        *("modules.json", "1_Pooling/config.json"),
        *("2_Dense/config.json", "2_Dense/model.safetensors"),
        *("0_Transformer/config.json", "0_Transformer/model.safetensors"),
        *("0_Transformer/sentence_bert_config.json", "0_Transformer/tokenizer.json"),
    }
    assert set(of_tokenizer(described)) == {"0_Transformer/tokenizer.json"}
    assert len(list_files(tmp_path)) == len(described)


def test_texts_longer_than_the_folder_declares_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, flags("mean"), longest=64)
    encoder = built(tmp_path)
    check_longest(encoder, 64, "task.max_text_tokens")
    told = r"task\.max_text_tokens: .* may have 65 tokens, .* takes 64: set at most 62"
    with pytest.raises(ConfigError, match=told):
        check_longest(encoder, 65, "task.max_text_tokens")


@pytest.mark.parametrize(
    ("behind", "change", "told"),
    [
        ({"in_features": 7, "out_features": 5}, {}, "2_Dense: takes 7 values, and is given 32"),
        (
            DENSE,
            {"2_Dense/config.json": DENSE | {"out_features": -1}},
            "out_features: Input should",
        ),
        (DENSE | {"use_residual": True}, {}, r"use_residual: Input should be False; it is not"),
        (DENSE | {"activation_function": "os.system"}, {}, r"'os\.system' is not followed; known"),
        ({}, {"modules.json": []}, "lists 0 modules, at least 2 are needed"),
        ({}, {"modules.json": [{"path": "", "type": "a.Router"}] * 2}, "Router, Router; what is"),
        (
            {},
            {"modules.json": [{"path": "../x", "type": "a.Transformer"}] * 2},
            r"path '\.\./x' leads out of the folder",
        ),
        (
            {},
            {"modules.json": [{"path": "\0x", "type": "a.Transformer"}] * 2},
            r"path '\\x00x' leads out of the folder",
        ),
        ({}, {"sentence_bert_config.json": {"do_lower_case": True}}, "do_lower_case: Input should"),
        ({}, {"sentence_bert_config.json": {"max_seq_length": 0}}, "max_seq_length: Input should"),
        ({}, {"1_Pooling/config.json": {"pooling_mode": "median"}}, "pooling_mode"),
        ({}, {"1_Pooling/config.json": {"pooling_mode": []}}, "pooling_mode"),
    ],
)
def test_what_is_not_followed_is_told(
    behind: dict[str, Any], change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    saved(tmp_path, flags("mean"), behind)
    for name, content in change.items():
        write(tmp_path / name, content)
    with pytest.raises(ConfigError, match=told):
        built(tmp_path)


def test_a_module_that_is_not_there_is_told_by_its_file(tmp_path: Path) -> None:
    saved(tmp_path, flags("mean"))
    (tmp_path / "1_Pooling/config.json").unlink()
    with pytest.raises(ConfigError, match=r"1_Pooling/config\.json: No such file"):
        built(tmp_path)


def test_a_checkpoint_that_declares_no_pooling_is_refused(tmp_path: Path) -> None:
    write_checkpoint("bert", tmp_path)
    with pytest.raises(ConfigError, match=r"without modules\.json it says nothing of pooling"):
        built(tmp_path)
    with pytest.raises(ConfigError, match="the text encoder starts from none: set pretrained"):
        TextEncoder(CONFIG, vocab_size=500)


def test_a_dense_layer_in_a_pickle_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, flags("mean"), DENSE)
    (tmp_path / "2_Dense/model.safetensors").rename(tmp_path / "2_Dense/pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"model\.safetensors: missing; save the model as"):
        built(tmp_path)


@pytest.mark.parametrize(
    ("case", "part", "task", "told"),
    [
        (
            *("text", "encoder", {"inputs": {"modality": "text", "max_tokens": 127}}),
            r"task\.inputs\.max_tokens: .* may have 129 tokens, .* takes 128: set at most 126",
        ),
        (
            *("align_image", "text_encoder", {"max_text_tokens": 127}),
            r"task\.max_text_tokens: .* may have 129 tokens, .* takes 128: set at most 126",
        ),
    ],
)
def test_a_training_whose_texts_may_be_longer_is_refused(
    make_job: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    part: str,
    task: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = record_checkpoint(write_checkpoint("sentences", tmp_path / "theirs"))
    model = {part: TEXT | {"pretrained": "theirs", "pooling": "checkpoint"}}
    with pytest.raises(ConfigError, match=told):
        make_job(case, model=model, task=task, weights=weights)
