"""Adapters train alone, merge into what they were, resume exactly and are readable by peft."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from plumbline.errors import ConfigError, TrainingError
from plumbline.models.new_rows import put_rows
from plumbline.models.weights import plain_state
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.adapters import (
    Adapter,
    attach_adapters,
    frozen_base,
    merge_adapters,
    save_adapters,
)
from plumbline.weights.checkpoint import Base
from plumbline.weights.files import Files

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"method": "dora"},
    "rank_stabilized": {"rank_stabilized": True},
    "qlora": {"quantize": "nf4"},
    "qdora": {"method": "dora", "quantize": "nf4"},
    "fp4": {"quantize": "fp4", "double_quantize": False},
}


class Model(nn.Module):
    """A decoder, and a part beside it that has no adapter."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.projector = nn.Linear(8, 8)
        self.decoder = decoder

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.decoder(input_ids=ids).logits
        return logits + self.projector.weight.sum()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=60,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=96,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base: Path, **settings: Any) -> tuple[Model, list[Adapter]]:
    torch.manual_seed(1)
    model = Model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    configs = {"decoder": AdapterConfig.model_validate({"rank": 4} | settings)}
    adapters = attach_adapters(model, configs, seed=0, compute_dtype=torch.float32)
    return model, adapters


def batch(number: int) -> Tensor:
    return torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(number))


def train(model: Model, steps: range, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    for step in steps:
        ids = batch(step)
        loss = nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(model: Model, steps: int = 5) -> Model:
    parameters = [p for p in model.parameters() if p.requires_grad]
    train(model, range(steps), torch.optim.AdamW(parameters, lr=1e-2))
    return model.eval()


@pytest.mark.parametrize("method", METHODS)
def test_the_adapter_and_the_part_beside_it_train_and_nothing_else(base: Path, method: str) -> None:
    model, adapters = adapted(base, **METHODS[method])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(model)
    after = dict(model.named_parameters())
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    expected = {n for n in after if "lora_" in n or n == "projector.weight"}
    assert moved == expected
    assert {name for name, p in after.items() if p.grad is not None} == expected
    rest = {n for n in after if n.startswith("decoder.")} - expected
    assert set(frozen_base(model, adapters)) == rest


@pytest.mark.parametrize("method", METHODS)
def test_merged_logits_are_those_with_the_adapter(base: Path, method: str) -> None:
    model, adapters = adapted(base, **METHODS[method])
    trained(model)
    names = set(Model(AutoModelForCausalLM.from_pretrained(base)).state_dict())
    with torch.no_grad():
        untouched = AutoModelForCausalLM.from_pretrained(base)(input_ids=batch(9)).logits
        expected = model(batch(9))
        figures = merge_adapters(model, adapters)["decoder"]
        found = model(batch(9))
    assert (expected - untouched).abs().max() > 0.1  # it has learned something
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
    assert set(model.state_dict()) == names
    assert figures["layers"] == 14
    assert figures["base"] == METHODS[method].get("quantize", "float32")
    assert figures["merged_difference"] <= 1e-5
    assert {type(m) for m in model.modules() if isinstance(m, nn.Linear)} == {nn.Linear}


@pytest.mark.parametrize("method", ["lora", "dora", "rank_stabilized"])
def test_a_saved_adapter_is_what_peft_reads(base: Path, tmp_path: Path, method: str) -> None:
    model, adapters = adapted(base, alpha=7.0, **METHODS[method])
    trained(model)
    files: Files = {"config.json": {"bytes": 2, "sha256": "00"}}
    save_adapters(tmp_path, adapters, {"decoder": Base("owner/base", "0123", files)})
    folder = tmp_path / "adapters/decoder"
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    with torch.no_grad():
        found = theirs(input_ids=batch(9)).logits
        expected = model.decoder(input_ids=batch(9)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("owner/base", "0123")
    known = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    assert known == {"name": "owner/base", "revision": "0123", "files": files}


@pytest.mark.parametrize("method", METHODS)
def test_a_training_state_holds_the_adapter_alone_and_goes_on_exactly(
    base: Path, method: str
) -> None:
    whole, _ = adapted(base, **METHODS[method])
    optimizer = torch.optim.AdamW([p for p in whole.parameters() if p.requires_grad], lr=1e-2)
    train(whole, range(3), optimizer)
    with torch.no_grad():
        whole.eval()(batch(9))  # a validation in between must leave no trace
    state = {name: tensor.clone() for name, tensor in plain_state(whole).items()}
    moments = deepcopy(optimizer.state_dict())
    assert all("lora_" in name or name.startswith("projector.") for name in state)
    train(whole, range(3, 6), optimizer)

    resumed, _ = adapted(base, **METHODS[method])
    resumed.load_state_dict(state, strict=False)
    optimizer = torch.optim.AdamW([p for p in resumed.parameters() if p.requires_grad], lr=1e-2)
    optimizer.load_state_dict(moments)
    train(resumed, range(3, 6), optimizer)
    for name, tensor in plain_state(whole).items():
        assert torch.equal(tensor, plain_state(resumed)[name]), name


def test_layers_are_chosen_by_the_end_of_a_name_or_an_expression(base: Path) -> None:
    def names(targets: list[str]) -> set[str]:
        return {name for name, _ in adapted(base, targets=targets)[1][0].layers()}

    assert names(["q_proj", "self_attn.v_proj"]) == {
        f"model.layers.{layer}.self_attn.{end}" for layer in (0, 1) for end in ("q_proj", "v_proj")
    }
    assert names([r"model\.layers\.1\.mlp\..*"]) == {
        f"model.layers.1.mlp.{end}" for end in ("gate_proj", "up_proj", "down_proj")
    }
    with pytest.raises(ConfigError, match=r"'qproj' is no linear layer of decoder; .* q_proj"):
        adapted(base, targets=["qproj"])


def test_adapters_begin_with_draws_of_their_own(base: Path) -> None:
    (one, _), (other, _) = adapted(base), adapted(base)
    torch.manual_seed(7)
    model = Model(AutoModelForCausalLM.from_pretrained(base))
    attach_adapters(model, {"decoder": AdapterConfig(rank=4)}, seed=1, compute_dtype=torch.float32)
    drawn = "decoder.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(one.state_dict()[drawn], other.state_dict()[drawn])
    assert not torch.equal(one.state_dict()[drawn], model.state_dict()[drawn])


def test_an_unknown_part_is_named(base: Path) -> None:
    model = Model(AutoModelForCausalLM.from_pretrained(base))
    with pytest.raises(ConfigError, match=r"adapters\.encoder: no such part; parts are projector"):
        attach_adapters(model, {"encoder": AdapterConfig()}, seed=0, compute_dtype=torch.float32)


def test_a_layer_that_merges_into_something_else_stops_the_training(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapters = adapted(base)
    trained(model)
    layer: Any = next(layer for _, layer in adapters[0].layers())
    monkeypatch.setattr(layer, "merge", lambda safe_merge: None)
    with pytest.raises(TrainingError, match=r"decoder\.model.*: merged with its adapter it gives"):
        merge_adapters(model, adapters)


NEW = [3, 57, 58, 59]


def with_rows(base: Path, **settings: Any) -> tuple[Model, list[Adapter]]:
    torch.manual_seed(1)
    model = Model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    configs = {"decoder": AdapterConfig.model_validate({"rank": 4, "new_tokens": True} | settings)}
    adapters = attach_adapters(
        model, configs, seed=0, compute_dtype=torch.float32, new_tokens={"decoder": NEW}
    )
    return model, adapters


def untied(base: Path) -> Path:
    """The same decoder with a last map of its own."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(torch.randn(60, 64) * 0.02)
    model.save_pretrained(base.parent / "untied")
    return base.parent / "untied"


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("tied", [True, False])
def test_of_the_tables_the_rows_of_new_tokens_alone_train(
    base: Path, tied: bool, method: str
) -> None:
    folder = base if tied else untied(base)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model, adapters = with_rows(folder, **METHODS[method])
    plain, _ = adapted(folder, **METHODS[method])
    with torch.no_grad():
        assert torch.equal(model.eval()(batch(9)), plain.eval()(batch(9)))
    rows = {name for name, p in model.named_parameters() if "token_adapter" in name}
    assert len(rows) == (1 if tied else 2)
    trained(model)
    assert not [name for name in frozen_base(model, adapters) if "token_adapter" in name]
    with torch.no_grad():
        expected = model(batch(9))
        merge_adapters(model, adapters)
        found = model(batch(9))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
    assert set(model.decoder.state_dict()) == set(theirs.state_dict())
    old = [number for number in range(60) if number not in NEW]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        before, after = theirs.state_dict()[name], model.decoder.state_dict()[name]
        assert torch.equal(after[old], before[old])
        assert (after[NEW] != before[NEW]).any(dim=1).all()


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_new_tokens_are_what_peft_reads(base: Path, tmp_path: Path, tied: bool) -> None:
    folder = base if tied else untied(base)
    model, adapters = with_rows(folder)
    trained(model)
    save_adapters(tmp_path, adapters, {})
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapters/decoder"
    ).eval()
    with torch.no_grad():
        found = theirs(input_ids=batch(9)).logits
        expected = model.decoder(input_ids=batch(9)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_rows_of_a_scaled_embedding_are_scaled_alike() -> None:
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    more = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **more)).eval()
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        put_rows(model, model, range(30, 40))
        assert torch.equal(model(input_ids=ids).logits, before)


def test_a_part_whose_table_is_shared_by_several_embeddings_is_refused() -> None:
    sizes = {"vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = BartForConditionalGeneration(BartConfig(**sizes, **heads))
    with pytest.raises(ConfigError, match="has 3 embeddings of one table"):
        put_rows(model, model, [38, 39])


SectionOf = Callable[..., Any]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"adapters": {"decoder": {"rank": 0}}}, "greater than or equal to 1"),
        ({"adapters": {"decoder": {}}, "freeze": ["decoder"]}, "take it out of freeze"),
        (
            {"adapters": {"decoder": {}}, "trainer": {"shard_layers": True, "processes": 2}},
            "parts with adapters are not spread over processes",
        ),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], told: str) -> None:
    from plumbline.kind import KINDS
    from plumbline.training.sections import train_section
    from tests.tiny import CASES

    case = CASES["causal_lm_rows"]
    section = train_section(KINDS[case.kind].settings)
    whole = {"model": case.model, "task": case.task, "trainer": {"epochs": 1}} | settings
    whole["trainer"] = {"epochs": 1} | settings.get("trainer", {})
    with pytest.raises(ValidationError, match=told):
        section.model_validate(whole)
