"""A user's own module is an encoder, or what it lacks is told in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plumbline.errors import ConfigError
from plumbline.models.encoder_config import ENCODERS, EncoderConfig
from plumbline.models.encoders import Encoder, encoder_for

NETS = """
import torch
from torch import nn

from plumbline.models.encoders import Encoded


class Pixels(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.map = nn.Linear(3, width)

    def forward(self, pixel_values):
        return self.map(pixel_values.flatten(2).mT)


class Steps(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.map = nn.Linear(channels, 4)

    def forward(self, steps, mask):
        hidden = self.map(steps) * mask.unsqueeze(-1)
        return Encoded(hidden, hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True), mask)


class Words(nn.Module):
    def __init__(self, vocab_size, width):
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)

    def forward(self, input_ids, attention_mask=None):
        return self.table(input_ids).mean(dim=1)


class Nameless(nn.Module):
    def forward(self, x):
        return x


class Pair(nn.Module):
    def forward(self, steps):
        return steps, steps


class Broken(nn.Module):
    def forward(self, steps):
        return steps @ torch.zeros(1000, 2)


def number():
    return 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_plugins: None) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/_nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def config(name: str, net: str, **others: Any) -> EncoderConfig:
    return ENCODERS[name].model_validate({"name": name, "module": f"plugins._nets:{net}"} | others)


def built(name: str, net: str, **others: Any) -> Encoder:
    torch.manual_seed(0)
    return encoder_for(config(name, net, **others), channels=6, vocab_size=50).eval()


def test_a_module_of_images_gives_its_tokens_and_their_mean(nets: None) -> None:
    encoder: Any = built("image_module", "Pixels", image_size=8, options={"width": 7})
    assert (encoder.tokens, encoder.token_width, encoder.width) == (64, 7, 7)
    pixels = torch.randn(2, 3, 8, 8)
    expected: Tensor = encoder.net(pixels)
    for found in (encoder(pixels), encoder(pixel_values=pixels, other=1)):
        assert torch.equal(found.tokens, expected)
        torch.testing.assert_close(found.pooled, expected.mean(dim=1))


def test_a_module_of_steps_is_told_channels_and_given_the_mask(nets: None) -> None:
    encoder = built("module", "Steps")
    steps, mask = torch.randn(2, 5, 6), torch.arange(5) < torch.tensor([[5], [3]])
    found = encoder(steps=steps, mask=mask)
    expected = encoder.net.map(steps[1, :3]).mean(dim=0)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(found.pooled[1], expected)
    assert found.mask is mask
    assert encoder.width == 4


def test_a_module_of_texts_is_told_the_vocabulary(nets: None) -> None:
    encoder = built("module", "Words", options={"width": 9})
    found = encoder(input_ids=torch.tensor([[1, 49]]), attention_mask=torch.ones(1, 2))
    assert found.pooled.shape == (1, 9)


@pytest.mark.parametrize(
    ("net", "options", "told"),
    [
        ("Nameless", {}, "forward needs x, and an encoder is given by name: pixel_values of ima"),
        ("Pair", {}, r"forward gives tuple; \[batch, width\] or"),
        ("Broken", {}, "fails on an input of zeros: "),
        ("Words", {}, "cannot be made with vocab_size: .*'width'"),
        ("Steps", {"depth": 3}, "cannot be made with channels, depth: .*'depth'"),
        ("number", {}, "gives a int, and a torch module is expected"),
        ("Gone", {}, "cannot be imported"),
    ],
)
def test_what_does_not_fit_is_one_line(
    nets: None, net: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        built("module", net, options=options)
    assert "\n" not in str(caught.value)


def test_inputs_that_a_module_does_not_get_are_named(nets: None) -> None:
    encoder = built("module", "Steps")
    with pytest.raises(ConfigError, match="needs mask, and the inputs of this task give steps"):
        encoder(steps=torch.zeros(1, 2, 6))


def test_code_outside_the_plugins_is_refused() -> None:
    with pytest.raises(ValidationError, match="'os:system' is no class of the project's plugins"):
        ENCODERS["module"].model_validate({"name": "module", "module": "os:system"})
