"""Image encoders: torchvision networks that give tokens for a decoder and one pooled vector."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer
from torchvision.ops import Conv2dNormActivation

from plumbline.errors import ConfigError
from plumbline.models.encoder_config import ResnetConfig, TorchvisionConfig, VitConfig
from plumbline.models.encoders import Encoded, Encoder

if TYPE_CHECKING:
    from plumbline.models.pretrained import Origin


class ImageEncoder(Encoder):
    """Base of the image encoders; `width`, `token_width` and `tokens` say what they give."""

    token_width: int
    tokens: int

    def forward(self, pixel_values: Tensor, **others: object) -> Encoded:
        """Encode normalised images.

        Args:
            pixel_values: [batch, channels, height, width], float, normalised per channel.
            others: what a batch holds beside.
        """
        raise TypeError(f"{type(self).__name__} does not say how it encodes")


class VitEncoder(ImageEncoder):
    """torchvision's VisionTransformer; pooled is the mean over its normalised patch tokens."""

    def __init__(self, config: VitConfig) -> None:
        """Build with random weights from torch's global generator."""
        super().__init__()
        stem = [
            ConvStemConfig(out_channels=c.channels, kernel_size=c.kernel, stride=c.stride)
            for c in config.conv_stem
        ]
        self.vit = VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_layers=config.layers,
            num_heads=config.heads,
            hidden_dim=config.width,
            mlp_dim=config.mlp_width,
            dropout=config.dropout,
            conv_stem_configs=stem or None,
        )
        self.vit.heads = nn.Identity()  # its weights would be stored and never trained
        # A layer may be counted from the end.
        self._feature_layers = [i % (config.layers + 1) for i in config.feature_layers]
        self.width = config.width
        self.token_width = config.width * len(config.feature_layers)
        self.tokens = (config.image_size // config.patch_size) ** 2
        if config.channels == 1:
            _take_gray(self.vit)

    def forward(self, pixel_values: Tensor, **others: object) -> Encoded:
        """See `ImageEncoder.forward`."""
        x = self.vit._process_input(pixel_values)  # [batch, tokens, width]
        x = torch.cat([self.vit.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.vit.encoder.dropout(x + self.vit.encoder.pos_embedding)
        states = [x]  # of every layer, from 0: the embeddings
        for layer in self.vit.encoder.layers:
            x = layer(x)
            states.append(x)
        # [batch, tokens, width] without the first: the class token is not an image token.
        pooled = self.vit.encoder.ln(x)[:, 1:].mean(dim=1)
        tokens = torch.cat([states[i][:, 1:] for i in self._feature_layers], dim=-1)  # side by side
        return Encoded(tokens, pooled)


class TrunkEncoder(ImageEncoder):
    """The trunk of a torchvision classifier up to its last feature map."""

    def __init__(self, config: TorchvisionConfig, *, origin: "Origin | None" = None) -> None:
        """Build by name; random weights unless `origin` is the file of a state dict.

        Raises:
            ConfigError: no such model, or one without a convolutional trunk.
        """
        super().__init__()
        names = torchvision.models.list_models(module=torchvision.models)
        if config.arch not in names:
            raise ConfigError(f"arch = {config.arch!r}: no torchvision classifier; e.g. resnet18")
        model = torchvision.models.get_model(config.arch, weights=None)
        if origin is not None and origin.with_weights:
            _load_weights(model, origin.path)
        if config.arch.startswith("swin"):
            raise ConfigError(
                f"arch = {config.arch!r}: its maps have the channels last; use another"
            )
        if hasattr(model, "layer4"):
            # Without the pooling and the classifier of a ResNet.
            self.trunk = nn.Sequential(*list(model.children())[:-2])
        elif hasattr(model, "features"):
            self.trunk = model.features
        else:
            raise ConfigError(f"arch = {config.arch!r}: has no convolutional trunk; use name: vit")
        if config.channels == 1:
            _take_gray(self.trunk)
        # What a trunk gives, its name does not say: ask it. In evaluation mode, so that the running
        # statistics of its norms stay as they are.
        with torch.no_grad():
            probe = torch.zeros(1, config.channels, config.image_size, config.image_size)
            shape = self.trunk.eval()(probe).shape
        self.trunk.train()
        self.width = self.token_width = int(shape[1])
        self.tokens = int(shape[2] * shape[3])

    def forward(self, pixel_values: Tensor, **others: object) -> Encoded:
        """See `ImageEncoder.forward`."""
        maps = self.trunk(pixel_values)  # [batch, width, rows, columns]
        tokens = maps.flatten(2).transpose(1, 2)  # [batch, rows * columns, width]
        return Encoded(tokens, tokens.mean(dim=1))


class ResnetEncoder(ImageEncoder):
    """Residual blocks of torchvision behind a small stem; see `ResnetConfig`.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2 (the networks for small images).
    """

    def __init__(self, config: ResnetConfig) -> None:
        """Build with random weights from torch's global generator."""
        super().__init__()
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d
        if config.norm == "group":
            norm = partial(nn.GroupNorm, 8)
        channels = config.stem_channels
        stem = Conv2dNormActivation(
            3, channels, 3, config.stem_stride, norm_layer=norm, activation_layer=nn.ReLU
        )
        blocks: list[nn.Module] = [stem]
        side = -(-config.image_size // config.stem_stride)
        for stage in config.stages:
            for number in range(stage.blocks):
                stride = stage.stride if number == 0 else 1
                shortcut = None
                if stride != 1 or channels != stage.channels:
                    shortcut = Conv2dNormActivation(
                        channels, stage.channels, 1, stride, norm_layer=norm, activation_layer=None
                    )
                blocks.append(
                    BasicBlock(channels, stage.channels, stride, shortcut, norm_layer=norm)
                )
                channels = stage.channels
            side = -(-side // stage.stride)
        self.trunk = nn.Sequential(*blocks)
        self.width = self.token_width = channels
        self.tokens = side * side
        if config.channels == 1:
            _take_gray(self.trunk)

    def forward(self, pixel_values: Tensor, **others: object) -> Encoded:
        """See `ImageEncoder.forward`."""
        # Convolutions of this size run faster on a CPU with the channels last.
        maps = self.trunk(pixel_values.contiguous(memory_format=torch.channels_last))
        tokens = maps.flatten(2).transpose(1, 2)
        return Encoded(tokens, tokens.mean(dim=1))


def _take_gray(network: nn.Module) -> None:
    """Let a network of three channels take one, and give what three equal ones would have given.

    So weights that were trained on colour can be used, and random ones keep the scale of theirs:
    the sum of three of fan-in 3 k^2 varies as one of fan-in k^2.
    """
    # modules() goes in the order in which they were made: the convolution that sees the pixels.
    first = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    first.in_channels = 1


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{path}: a torchvision encoder starts from the file of a state dict")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            # weights_only: a pickle could run code.
            state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except (SafetensorError, UnpicklingError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: does not fit the network ({reason})") from None
