"""The model of a forecast, and what is stored beside its weights."""

from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from plugins.forecast.settings import ForecastConfig
from plumbline.loading.input_config import FeaturesInputConfig
from plumbline.models.encoders import encoder_for
from plumbline.models.pretrained import Origins
from plumbline.models.spec import ModelSpec


class Forecaster(nn.Module):
    """An encoder whose tokens say what the next step will be."""

    def __init__(self, config: ForecastConfig, channels: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.encoder = encoder_for(config.encoder, channels, vocab_size=None)
        self.head = nn.Linear(self.encoder.token_width, channels)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, steps, channels] under mask [batch, steps] to the step after each."""
        out: Tensor = self.head(self.encoder(steps=steps, mask=mask).tokens)
        return out


class ForecastSpec(ModelSpec):
    """How to build and feed a forecaster."""

    kind: Literal["forecast"] = "forecast"
    model: ForecastConfig
    inputs: FeaturesInputConfig
    channels: int

    @override
    def build(self, origins: Origins) -> Forecaster:
        return Forecaster(self.model, self.channels)


SPEC = ForecastSpec
