"""The operations of a step, against a count by hand."""

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from plumbline.batch import Batch, LossSum
from plumbline.training.flops import StepFlops, count_step
from plumbline.training.task import Task
from tests.training.together import ALONE

BATCH, STEPS, WIDTH, HEADS = 3, 5, 8, 2


class Chain(nn.Module):
    """Two linear maps and a product that no part computes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 11)
        self.norm = nn.BatchNorm1d(11)
        self.second = nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x))
        out: Tensor = self.second(input=hidden)
        return out @ torch.ones(2, 4)


def count(model: nn.Module, **batch: Tensor) -> StepFlops:
    def loss(model: nn.Module, batch: Batch) -> LossSum:
        out = model(**batch)
        total = (out if isinstance(out, Tensor) else out.last_hidden_state).square().sum()
        return LossSum(total, torch.tensor(1))

    task = Task("toy", collate=lambda samples: {}, loss=loss)
    return count_step(model, task, batch, ALONE)


def test_a_linear_layer_costs_two_operations_a_weight_and_its_gradients_twice_as_much() -> None:
    found = count(Chain(), x=torch.randn(BATCH, 7))
    assert found.forward == {
        "first": 2 * BATCH * 7 * 11,
        "second": 2 * BATCH * 11 * 2,
        "": 2 * BATCH * 2 * 4,
    }
    # The first has no gradient of its input to compute, the constant product none of its weight.
    assert found.backward == {
        "first": 2 * BATCH * 7 * 11,
        "second": 2 * 2 * BATCH * 11 * 2,
        "": 2 * BATCH * 2 * 4,
    }
    assert found.step["second"] == 3 * found.forward["second"]


def attention_products(rows: int, seq: int, width: int) -> int:
    """Four maps of width x width, and the two products of queries, keys and values."""
    return 4 * 2 * rows * seq * width * width + 2 * 2 * rows * seq * seq * width


class BertLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = BertModel(
            BertConfig(
                vocab_size=9,
                hidden_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=HEADS,
                intermediate_size=13,
            ),
            add_pooling_layer=False,
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.encoder(input_ids=input_ids).last_hidden_state
        return out


def test_an_attention_layer_costs_its_maps_and_its_two_products() -> None:
    feed_forward = 2 * 2 * BATCH * STEPS * WIDTH * 13
    found = count(BertLayer(), input_ids=torch.zeros(BATCH, STEPS, dtype=torch.long))
    assert found.forward == {"encoder": attention_products(BATCH, STEPS, WIDTH) + feed_forward}
    assert found.backward == {"encoder": 2 * found.forward["encoder"]}


@pytest.mark.parametrize("trained", [True, False])
def test_a_layer_of_torch_costs_the_same_also_where_it_would_be_fused(trained: bool) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 13, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    model = Layer().train(trained)
    model.requires_grad_(trained)
    found = count(model, x=torch.randn(BATCH, STEPS, WIDTH))
    expected = attention_products(BATCH, STEPS, WIDTH) + 2 * 2 * BATCH * STEPS * WIDTH * 13
    assert found.forward == {"layer": expected}
    assert bool(found.backward) == trained


def test_counting_leaves_the_model_as_it_was() -> None:
    model = Chain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, x=torch.randn(BATCH, 7))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.first._forward_hooks
