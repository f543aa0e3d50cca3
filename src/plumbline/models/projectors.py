"""From the tokens of an image encoder to what a decoder sees of an image."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plumbline.errors import ConfigError
from plumbline.models.pretrained import Origin, read_part
from plumbline.models.projector_config import MlpConfig, PixelShuffleConfig, ProjectorConfig
from plumbline.registry import load_attribute


@dataclass(frozen=True)
class Joint:
    """What a projector stands between."""

    tokens: int
    """Of an image, from the encoder."""
    token_width: int
    decoder_width: int
    origin: Origin | None = None
    """The checkpoint that it starts from."""


class Projector(nn.Module, ABC):
    """Base of the projectors."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Map image tokens to the decoder's.

        Args:
            features: [batch, image tokens of the encoder, token_width].

        Returns:
            [batch, tokens that the decoder sees, decoder_width].
        """


def build_projector(config: ProjectorConfig, joint: Joint) -> Projector:
    """Make the projector of some settings, with random weights from torch's global generator.

    Args:
        config: its class names the callable that builds it.
        joint: what it stands between.

    Raises:
        ConfigError: it cannot stand there, or its checkpoint does not fit.
    """
    projector: Projector = load_attribute(config.builder)(config, joint)
    return projector


class Mlp(Projector):
    """Two layers that map image tokens to the width of the decoder, and where each token lies.

    The decoder's rotary positions are relative; a token's own place in the image is learned here.
    """

    def __init__(self, config: MlpConfig, joint: Joint) -> None:
        """Build with random weights; the norm first, for features of any scale."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(joint.token_width),
            nn.Linear(joint.token_width, config.width),
            nn.GELU(),
            nn.Linear(config.width, joint.decoder_width),
        )
        self.position = nn.Parameter(torch.randn(joint.tokens, joint.decoder_width) * 0.5)

    def forward(self, features: Tensor) -> Tensor:
        """See `Projector.forward`."""
        projected: Tensor = self.layers(features) + self.position
        return projected


class PixelShuffle(Projector):
    """Squares of tokens become one token each, which a linear map brings to the decoder's width.

    Source: Laurençon et al. 2024, arXiv:2408.12637, section 3.2.
    """

    def __init__(self, config: PixelShuffleConfig, joint: Joint) -> None:
        """Build with random weights, or with those of a checkpoint.

        Raises:
            ConfigError: tokens are no square of such squares, or the checkpoint does not fit.
        """
        super().__init__()
        self._scale, self._side = config.scale, round(config.count(joint.tokens) ** 0.5)
        self.proj = nn.Linear(joint.token_width * config.scale**2, joint.decoder_width, bias=False)
        if joint.origin is not None and joint.origin.with_weights:
            self._load(joint.origin)

    def forward(self, features: Tensor) -> Tensor:
        """See `Projector.forward`."""
        scale, side = self._scale, self._side
        # [batch, rows, row in square, columns, column in square, width]
        batch, width = features.shape[0], features.shape[-1]  # not len(): a trace would fix it
        squares = features.view(batch, side, scale, side, scale, width)
        # [batch, rows * columns, scale * scale * width]: the columns of a square's row come first
        joined = squares.transpose(2, 3).flatten(3).flatten(1, 2)
        projected: Tensor = self.proj(joined)
        return projected

    def _load(self, origin: Origin) -> None:
        own, state = self.state_dict(), read_part(origin.path, "projector")
        if state.keys() != own.keys():
            raise ConfigError(
                f"{origin.path}: lacks the tensors of a pixel_shuffle projector, or has more: it "
                f"has {', '.join(state) or 'none'}"
            )
        for name, tensor in state.items():
            if tensor.shape != own[name].shape:
                (out, given), (width, taken) = tensor.shape, own[name].shape
                raise ConfigError(
                    f"{origin.path}: its projector maps {given} numbers to {out}, and between this "
                    f"encoder and this decoder are {taken} and {width}: start them from it too"
                )
        self.load_state_dict(state)
