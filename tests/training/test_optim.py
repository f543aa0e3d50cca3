"""Parameters are grouped by part and kind, and updated as torch's own AdamW does it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.models.new_rows import put_rows
from plumbline.training.config import OptimConfig, TrainerConfig
from plumbline.training.optim import JoinedOptimizer, build_optimizer, parameter_groups, set_lr


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.projector = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
        self.projector_bias = nn.Parameter(torch.zeros(4))
        self.decoder = nn.ModuleDict({"embed": nn.Embedding(5, 4), "out": nn.Linear(4, 5)})
        self.scale = nn.Parameter(torch.tensor(1.0))


def config(**settings: Any) -> OptimConfig:
    return OptimConfig.model_validate({"lr": 0.1, "weight_decay": 0.5, **settings})


def by_name(model: nn.Module, settings: OptimConfig) -> dict[str, tuple[float, float]]:
    groups = parameter_groups(model, settings)
    found = {name: (g.lr, g.weight_decay) for g in groups for name in g.names}
    assert sum(len(g.names) for g in groups) == len(found)
    return found


def test_norms_biases_and_scalars_do_not_decay() -> None:
    assert by_name(Model(), config()) == {
        "projector.0.weight": (0.1, 0.0),
        "projector.0.bias": (0.1, 0.0),
        "projector.1.weight": (0.1, 0.5),
        "projector.1.bias": (0.1, 0.0),
        "projector_bias": (0.1, 0.0),
        "decoder.embed.weight": (0.1, 0.5),
        "decoder.out.weight": (0.1, 0.5),
        "decoder.out.bias": (0.1, 0.0),
        "scale": (0.1, 0.0),
    }


def test_everything_decays_when_it_is_set() -> None:
    found = by_name(Model(), config(decay_norms_and_biases=True))
    assert set(found.values()) == {(0.1, 0.5)}


def test_a_part_has_its_own_rate_and_decay_and_the_longest_prefix_wins() -> None:
    parts = {
        "decoder": {"lr": 0.01},
        "decoder.out": {"weight_decay": 0.2},
        "projector": {"lr": 0.3, "weight_decay": 0.0},
    }
    found = by_name(Model(), config(parts=parts))
    assert found["decoder.embed.weight"] == (0.01, 0.5)
    assert found["decoder.out.weight"] == (0.1, 0.2)
    assert found["projector.1.weight"] == (0.3, 0.0)
    assert found["projector_bias"] == (0.1, 0.0)  # a prefix ends at a dot


def test_frozen_parameters_are_in_no_group() -> None:
    model = Model()
    model.decoder.requires_grad_(False)
    assert not [n for n in by_name(model, config()) if n.startswith("decoder")]


def test_an_unknown_part_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        parameter_groups(Model(), config(parts={"decodr": {"lr": 0.1}}))
    text = str(caught.value)
    assert "optim.parts.decodr" in text
    assert "did you mean decoder?" in text
    assert "decoder, projector, projector_bias, scale" in text


def test_a_part_that_is_frozen_cannot_be_tuned() -> None:
    model = Model()
    model.decoder.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"optim\.parts\.decoder: no trainable parameter"):
        parameter_groups(model, config(parts={"decoder": {"lr": 0.1}}))


def test_a_model_without_a_trainable_parameter_is_refused() -> None:
    model = Model().requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        parameter_groups(model, config())


def test_each_group_is_scaled_from_its_own_peak() -> None:
    optimizer = build_optimizer(Model(), config(parts={"decoder": {"lr": 0.4}}))
    for factor in (0.5, 0.25):  # not compounded
        set_lr(optimizer, factor)
        rates = {group["lr"] for group in optimizer.param_groups}
        assert sorted(rates) == pytest.approx([0.1 * factor, 0.4 * factor], rel=1e-12)


def step_alike(
    ours: nn.Module, plain: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 5
) -> None:
    """Give both models the same random gradients, float64, and let all optimisers step."""
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=random, dtype=torch.float64)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()


def assert_alike(ours: nn.Module, plain: nn.Module, tolerance: float) -> None:
    for (name, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=name)


def test_updates_agree_with_plain_adamw() -> None:
    settings = config(betas=[0.8, 0.95], eps=1e-6)
    ours, plain = Model().double(), Model().double()
    decays = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": decays, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.95), eps=1e-6, foreach=False)
    step_alike(ours, plain, build_optimizer(ours, settings), reference)
    assert_alike(ours, plain, 1e-12)


def test_each_part_is_updated_as_by_an_optimizer_of_its_own() -> None:
    parts = {"decoder": {"lr": 0.01, "weight_decay": 0.2}, "projector": {"lr": 0.3}}
    settings = config(parts=parts, betas=[0.8, 0.95], eps=1e-6)
    ours, plain = Model().double(), Model().double()
    own = {"decoder": (0.01, 0.2), "projector": (0.3, 0.5)}
    references = []
    for name, parameter in plain.named_parameters():
        lr, decay = own.get(name.split(".")[0], (0.1, 0.5))
        decay = decay if parameter.ndim > 1 else 0.0
        references.append(
            torch.optim.AdamW([parameter], lr, (0.8, 0.95), 1e-6, decay, foreach=False)
        )
    step_alike(ours, plain, build_optimizer(ours, settings), *references)
    assert_alike(ours, plain, 1e-12)


def test_the_first_step_of_adamw_is_the_rate_against_the_sign_of_the_gradient() -> None:
    """Both moments are then of this gradient alone; the decay comes before."""
    model, before = Model().double(), Model().double()
    optimizer = build_optimizer(model, config(eps=1e-14))
    step_alike(model, before, optimizer, steps=1)
    for parameter, old in zip(model.parameters(), before.parameters(), strict=True):
        assert old.grad is not None
        decayed = old * (1 - 0.1 * (0.5 if old.ndim > 1 else 0.0))
        expected = decayed - 0.1 * old.grad.sign()
        torch.testing.assert_close(parameter, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)], ids=str
)
def test_updates_agree_with_plain_sgd(momentum: float, nesterov: bool) -> None:
    settings = config(name="sgd", sgd={"momentum": momentum, "nesterov": nesterov})
    ours, plain = Model().double(), Model().double()
    decays = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": decays, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=nesterov, foreach=False)
    step_alike(ours, plain, build_optimizer(ours, settings), reference)
    assert_alike(ours, plain, 1e-12)


def muon(**settings: Any) -> OptimConfig:
    return config(name="muon", muon=settings, betas=[0.8, 0.95], eps=1e-6)


@pytest.mark.parametrize("scale", ["match_rms_adamw", "original"])
def test_muon_updates_matrices_as_torch_does_and_adamw_the_rest(scale: str) -> None:
    settings = muon(lr_scale=scale, adamw_lr_ratio=0.5, adamw_parts=["decoder.out"])
    ours, plain = Model().double(), Model().double()
    names = dict(plain.named_parameters())
    hidden = names.pop("projector.1.weight")
    decays = [p for p in names.values() if p.ndim > 1]
    others = [p for p in names.values() if p.ndim <= 1]
    groups = [{"params": decays, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    step_alike(
        ours,
        plain,
        build_optimizer(ours, settings),
        torch.optim.Muon([hidden], lr=0.1, weight_decay=0.5, momentum=0.95, adjust_lr_fn=scale),
        torch.optim.AdamW(groups, lr=0.05, betas=(0.8, 0.95), eps=1e-6, foreach=False),
    )
    assert_alike(ours, plain, 1e-12)


def test_a_step_of_muon_is_an_orthogonal_matrix_of_the_rate() -> None:
    """Scaled to AdamW's: 0.2 times the root of the longer side. Five iterations come near to 1."""
    model, before = Model().double(), Model().double()
    step_alike(model, before, build_optimizer(model, muon(newton_schulz_steps=5)), steps=1)
    old, new = (dict(m.named_parameters())["projector.1.weight"] for m in (before, model))
    step = (old * (1 - 0.1 * 0.5) - new) / (0.1 * 0.2 * 4**0.5)
    assert torch.linalg.svdvals(step).tolist() == pytest.approx([1.0] * 4, abs=0.35)


def trained_by_muon(model: nn.Module, **settings: Any) -> set[str]:
    groups = parameter_groups(model, muon(**settings))
    assert {g.optimizer for g in groups} == {"muon", "adamw"}
    return {name for g in groups if g.optimizer == "muon" for name in g.names}


def test_muon_takes_no_embedding_no_convolution_and_no_named_part() -> None:
    model = nn.ModuleDict(
        {
            "words": nn.Embedding(7, 4),
            "stem": nn.Conv2d(3, 4, 2),
            "hidden": nn.Linear(4, 4),
            "norm": nn.LayerNorm(4),
            "head": nn.Linear(4, 2),
        }
    )
    assert trained_by_muon(model) == {"hidden.weight", "head.weight"}
    assert trained_by_muon(model, adamw_parts=["head"]) == {"hidden.weight"}
    with pytest.raises(ConfigError, match=r"adamw_parts\.heed: .*did you mean head\?"):
        parameter_groups(model, muon(adamw_parts=["heed"]))
    with pytest.raises(ConfigError, match=r"'muon': no trainable matrix"):
        parameter_groups(model, muon(adamw_parts=["head", "hidden"]))


SIZES = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}


@pytest.mark.parametrize("tied", [True, False])
def test_muon_leaves_the_heads_of_language_models_alone(tied: bool) -> None:
    heads = {"num_attention_heads": 1, "tie_word_embeddings": tied}
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, **heads))
    found = trained_by_muon(nn.ModuleDict({"decoder": llama}))
    assert "decoder.model.layers.0.mlp.down_proj.weight" in found
    assert not [name for name in found if "lm_head" in name or "embed" in name]
    bert = BertForMaskedLM(BertConfig(**SIZES, **heads, max_position_embeddings=8))
    found = trained_by_muon(bert)
    assert "cls.predictions.transform.dense.weight" in found
    assert not [name for name in found if "embeddings" in name or "decoder" in name]


def test_muon_leaves_the_rows_of_new_tokens_alone() -> None:
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=1))
    for name, parameter in llama.named_parameters():
        parameter.requires_grad = "q_proj" in name
    put_rows(llama, llama, [3, 5])
    found = trained_by_muon(nn.ModuleDict({"decoder": llama}))
    assert found == {"decoder.model.layers.0.self_attn.q_proj.weight"}


def test_parts_have_their_rate_and_decay_under_muon_too() -> None:
    settings = muon(adamw_lr_ratio=0.5).model_copy(
        update={"parts": config(parts={"decoder": {"lr": 0.01, "weight_decay": 0.2}}).parts}
    )
    groups = parameter_groups(Model(), settings)
    found = {name: (g.optimizer, g.lr, g.weight_decay) for g in groups for name in g.names}
    assert found["projector.1.weight"] == ("muon", 0.1, 0.5)
    assert found["projector.1.bias"] == ("adamw", 0.05, 0.0)
    assert found["decoder.out.weight"] == ("muon", 0.01, 0.2)
    assert found["decoder.embed.weight"] == ("adamw", 0.005, 0.2)


def test_joined_optimizers_save_load_and_scale_as_one() -> None:
    whole, stopped, resumed = Model().double(), Model().double(), Model().double()
    first, second = build_optimizer(whole, muon()), build_optimizer(stopped, muon())
    assert isinstance(first, JoinedOptimizer)
    for each in (first, second):
        set_lr(each, 0.5)
    step_alike(whole, stopped, first, second, steps=3)
    resumed.load_state_dict(stopped.state_dict())
    third = build_optimizer(resumed, muon())
    third.load_state_dict(second.state_dict())
    for each in (first, third):
        set_lr(each, 0.25)
    step_alike(whole, resumed, first, third, steps=3)
    assert_alike(whole, resumed, 0.0)
    first.zero_grad()
    assert all(p.grad is None for p in whole.parameters())


def test_an_unknown_optimizer_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValidationError, match=r"optimizer 'adam' is unknown; did you mean adamw"):
        config(name="adam")
    with pytest.raises(ValidationError, match="nesterov is true, but momentum is 0"):
        config(sgd={"momentum": 0.0, "nesterov": True})


CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_the_groups_of_conf_hold_every_setting(name: str) -> None:
    written = compose_yaml(CONF / "optim", name, [])
    settings = OptimConfig.model_validate(written)
    assert settings.name == name
    assert settings.model_dump(mode="json") == written


def test_the_trainer_of_conf_holds_every_setting() -> None:
    written = compose_yaml(CONF / "trainer", "default", [])
    held = TrainerConfig.model_validate(written).model_dump(mode="json", exclude={"optim"})
    assert held == written
