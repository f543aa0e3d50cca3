"""A user's own module is a causal decoder like any other, or what it lacks is told in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from pydantic import ValidationError
from transformers import DynamicCache

from plumbline.batch import LossSum
from plumbline.errors import ConfigError
from plumbline.export.graphs import decoder_sizes, text_decoder_spec
from plumbline.export.onnx_writer import write_onnx
from plumbline.kinds.causal_lm.model import CausalLm
from plumbline.kinds.causal_lm.settings import CausalLmConfig
from plumbline.losses.language import token_cross_entropy
from plumbline.models import lm_head
from plumbline.models.decoder import CausalDecoder, build_decoder, find_change
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.module_decoder import needs_masks
from plumbline.models.packed import Packing, find_packing, takes_whole_rows
from plumbline.models.pretrained import Origin, save_architectures

NETS = """
import torch
from torch import nn


class Recurrent(nn.Module):
    def __init__(self, width, layers=1):
        super().__init__()
        self.net = nn.GRU(width, width, layers, batch_first=True)

    def forward(self, inputs_embeds):
        return inputs_embeds + self.net(inputs_embeds)[0]


class Attentive(nn.Module):
    def __init__(self, width, max_positions):
        super().__init__()
        self.places = nn.Embedding(max_positions, width)
        self.maps = nn.Linear(width, 3 * width)

    def forward(self, inputs_embeds, attention_mask, position_ids):
        query, key, value = self.maps(inputs_embeds + self.places(position_ids)).chunk(3, dim=-1)
        scores = (query @ key.mT).masked_fill(~attention_mask[:, 0], -torch.inf)
        return inputs_embeds + scores.softmax(dim=-1) @ value


class Whole(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, 8)
        self.head = nn.Linear(8, vocab_size)

    def forward(self, input_ids):
        return self.head(self.table(input_ids).cumsum(dim=1))


class Ahead(nn.Module):
    def forward(self, inputs_embeds):
        return inputs_embeds + inputs_embeds.mean(dim=1, keepdim=True)


class Pair(nn.Module):
    def forward(self, inputs_embeds):
        return inputs_embeds, inputs_embeds


class Narrow(nn.Module):
    def forward(self, inputs_embeds):
        return inputs_embeds[..., :3]


class Both(nn.Module):
    def forward(self, input_ids, inputs_embeds):
        return inputs_embeds


class Nameless(nn.Module):
    def forward(self, x):
        return x


class Broken(nn.Module):
    def forward(self, inputs_embeds):
        return inputs_embeds @ inputs_embeds
"""
VOCAB = 40
GOOD = ["Recurrent", "Attentive", "Whole"]


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_plugins: None) -> str:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/_nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "plugins._nets"


def config(place: str, name: str, **settings: Any) -> DecoderConfig:
    return DecoderConfig(module=f"{place}:{name}", width=12, max_positions=32, **settings)


def build(place: str, name: str, **settings: Any) -> CausalDecoder:
    torch.manual_seed(0)
    decoder = build_decoder(config(place, name, **settings), VOCAB, 0)
    assert isinstance(decoder, torch.nn.Module)
    return decoder.eval()  # type: ignore[no-any-return]


def some_ids(batch: int = 2, seq: int = 7) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, seq), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", GOOD)
@torch.no_grad()
def test_token_by_token_it_says_what_it_says_of_the_whole(plugins: str, name: str) -> None:
    decoder, ids = build(plugins, name), some_ids()
    whole = decoder(input_ids=ids, use_cache=False).logits
    cache, steps = DynamicCache(), []
    for column in (ids[:, :3], *ids[:, 3:].split(1, dim=1)):
        inputs = decoder.get_input_embeddings()(column)
        hidden = decoder.model(
            inputs_embeds=inputs, past_key_values=cache, use_cache=True
        ).last_hidden_state
        assert hidden.shape[:2] == column.shape
        steps.append(decoder.lm_head(hidden))
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)


@pytest.mark.parametrize("name", GOOD)
@torch.no_grad()
def test_it_generates_what_is_likeliest_at_each_place(plugins: str, name: str) -> None:
    decoder, ids = build(plugins, name), some_ids()
    out = decoder.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
    )
    logits = decoder(input_ids=out[:, :-1], use_cache=False).logits
    assert out.shape == (2, 13)
    torch.testing.assert_close(out[:, 7:], logits[:, 6:].argmax(dim=-1))


@pytest.mark.parametrize("name", ["Attentive", "Whole"])
@torch.no_grad()
def test_its_graph_goes_on_from_what_it_has_seen(plugins: str, name: str, tmp_path: Path) -> None:
    decoder, ids = build(plugins, name), some_ids(3, 9)
    sizes = decoder_sizes(decoder)
    spec = text_decoder_spec(decoder, sizes)
    write_onnx(spec, tmp_path / "decoder.onnx")
    session = ort.InferenceSession(tmp_path / "decoder.onnx")
    past = np.zeros((sizes.layers, 3, sizes.kv_heads, 0, sizes.head_dim), np.float32)
    feed = {"past_keys": past, "past_values": past}
    whole = decoder(input_ids=ids, use_cache=False).logits
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        chunk = {"input_ids": ids[:, start:stop].numpy(), **feed}
        logits, keys, values = session.run(None, chunk)
        np.testing.assert_allclose(logits, whole[:, stop - 1].numpy(), atol=1e-5)
        feed = {"past_keys": keys, "past_values": values}


@pytest.mark.parametrize("name", GOOD)
@torch.no_grad()
def test_it_is_built_again_from_the_architecture_beside_its_weights(
    plugins: str, name: str, tmp_path: Path
) -> None:
    decoder = build(plugins, name)
    save_architectures(tmp_path, {"decoder": decoder.config})
    torch.manual_seed(5)
    again = build_decoder(
        DecoderConfig(), VOCAB, 0, Origin(tmp_path / "pretrained/decoder", with_weights=False)
    )
    assert isinstance(again, torch.nn.Module)
    assert isinstance(decoder, torch.nn.Module)
    again.load_state_dict(decoder.state_dict())
    ids = some_ids()
    found = again.eval()(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, decoder(input_ids=ids, use_cache=False).logits)
    assert find_change(again) is not None


@pytest.mark.parametrize("name", GOOD)
def test_a_loss_in_chunks_is_that_of_all_logits(
    plugins: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = CausalLm(CausalLmConfig(decoder=config(plugins, name)), VOCAB, 0).double()
    ids, labels = some_ids(4, 9), some_ids(4, 9).roll(-1, dims=1)
    plain = token_cross_entropy(model(input_ids=ids).flatten(0, 1), labels.flatten())

    def gradients(loss: LossSum) -> list[torch.Tensor]:
        model.zero_grad()
        (loss.total / loss.count).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients(plain)
    monkeypatch.setattr(lm_head, "CHUNK_BYTES", {"cpu": 4 * VOCAB * 5})  # five rows at a time
    chunked = model.lm_head.loss(lambda: model(input_ids=ids), labels, None, token_cross_entropy)
    torch.testing.assert_close(chunked.total, plain.total, rtol=1e-6, atol=0)  # softmax: float32
    found = gradients(chunked)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_it_takes_no_packed_rows_and_says_so(
    plugins: str, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = build(plugins, "Attentive")
    assert not takes_whole_rows(decoder, 16)
    assert find_packing(decoder, [Packing("argument")], 16, lambda _: pytest.fail("tried")) is None
    assert "ModuleDecoder takes no packed rows" in caplog.text


@torch.no_grad()
def test_a_mask_of_pairs_reaches_it(plugins: str) -> None:
    decoder, ids = build(plugins, "Attentive"), some_ids(1, 6)
    # Two samples of three tokens in a row, each at its own positions.
    block = torch.ones(3, 3, dtype=torch.bool).tril()
    mask = torch.block_diag(block.int(), block.int()).bool()[None, None]
    inputs = decoder.get_input_embeddings()(ids)
    places = torch.tensor([[0, 1, 2, 0, 1, 2]])
    packed = decoder.model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=places, use_cache=False
    ).last_hidden_state
    alone = decoder.model(input_ids=ids[:, 3:], use_cache=False).last_hidden_state
    torch.testing.assert_close(packed[:, 3:], alone)


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("Recurrent", "its forward takes no attention_mask: a decoder that is shown images"),
        ("Whole", "its forward takes no inputs_embeds"),
    ],
)
def test_one_that_cannot_be_shown_images_is_refused_for_them(
    plugins: str, name: str, lacks: str
) -> None:
    needs_masks(build(plugins, "Attentive"))
    with pytest.raises(ConfigError, match=lacks):
        needs_masks(build(plugins, name))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Ahead", "it looks ahead: what it gives at a place changes with tokens behind it"),
        ("Pair", r"its forward gives tuple; \[batch, seq, width\] is expected"),
        ("Narrow", r"gives a tensor of shape \[1, 6, 3\] for 6 tokens; \[1, 6, 12\] is expected"),
        ("Both", "its forward must take either input_ids or inputs_embeds"),
        ("Nameless", "its forward needs x, and a decoder is given by name: input_ids int64"),
        ("Broken", "fails on 6 tokens: "),
        ("Absent", "cannot be imported"),
    ],
)
def test_what_a_module_lacks_is_told_in_one_line(plugins: str, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(plugins, name)
    assert "\n" not in str(caught.value)


def test_an_option_that_its_class_does_not_take_is_told(plugins: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be made with width, depth: .*'depth'"):
        build(plugins, "Recurrent", options={"depth": 2})


def test_an_architecture_beside_weights_names_no_code_but_plugins(tmp_path: Path) -> None:
    text = '{"model_type": "plumbline_module", "module": "os:system", "vocab_size": 4}'
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="'os:system' is no class of the project's plugins"):
        build_decoder(DecoderConfig(), VOCAB, 0, Origin(tmp_path, with_weights=False))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"module": "plugins._n:N", "pretrained": "qwen3"}, "both say where the decoder comes"),
        ({"options": {"layers": 2}}, "options are of a module, and none is named"),
        ({"module": "os:system"}, "no class of the project's plugins"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DecoderConfig(**settings)


def test_a_decoder_of_sizes_is_written_without_what_modules_have() -> None:
    assert set(DecoderConfig().model_dump()).isdisjoint({"module", "options"})
    made = DecoderConfig(module="plugins._n:N", options={"layers": 2}, width=50)
    assert DecoderConfig(**made.model_dump()) == made
