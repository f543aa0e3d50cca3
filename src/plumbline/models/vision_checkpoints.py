"""Image encoders of transformers and timm, with the weights of a checkpoint."""

import inspect
from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from plumbline.errors import ConfigError
from plumbline.models.encoder_config import TimmConfig, TransformersImageConfig
from plumbline.models.encoders import Encoded
from plumbline.models.pretrained import Origin, build_from_checkpoint
from plumbline.models.vision import ImageEncoder
from plumbline.models.weights import read_tensors


class TowerOutput(Protocol):
    """What an image tower of transformers gives."""

    last_hidden_state: Tensor
    """[batch, tokens, width], or of a convolutional network [batch, width, rows, columns]."""
    pooler_output: Tensor | None
    hidden_states: tuple[Tensor, ...] | None


class Tower(Protocol):
    """What is used of an image tower of transformers."""

    config: PreTrainedConfig

    def __call__(self, pixel_values: Tensor, **options: bool) -> TowerOutput:
        """See images [batch, channels, height, width]."""


class TransformersImageEncoder(ImageEncoder):
    """The image tower of a checkpoint of transformers."""

    def __init__(self, config: TransformersImageConfig, *, origin: Origin | None = None) -> None:
        """Build and load it.

        Raises:
            ConfigError: there is no checkpoint, it cannot be loaded, sees no images, or does not
                pool.
        """
        super().__init__()
        if origin is None:
            raise ConfigError(
                "an image encoder of transformers starts from a checkpoint: set its "
                "pretrained to an entry of weights"
            )
        self._config = config
        spare = None if config.pooling == "pooler" else "pooler"
        built = build_from_checkpoint(AutoModel, origin, tower="vision", spare=spare)
        assert built is not None, "it has an origin"
        self.architecture = built.config
        self.encoder = built
        # What a call takes: other sizes than its own are seen by those alone that can interpolate
        # the places of patches.
        takes = inspect.signature(built.forward).parameters
        if "pixel_values" not in takes:
            raise ConfigError(
                f"{origin.path}: a model of type {built.config.model_type}, which sees no images"
            )
        own = getattr(built.config, "image_size", config.image_size)
        self._options = {}
        if own != config.image_size and "interpolate_pos_encoding" in takes:
            self._options["interpolate_pos_encoding"] = True
        if config.feature_layer != -1:
            self._options["output_hidden_states"] = True
        # In evaluation mode: dropout would take draws from what the next weights are made of.
        with torch.no_grad():
            self.eval()
            out = self._see(torch.zeros(1, config.channels, config.image_size, config.image_size))
        self.train()
        if config.pooling == "pooler" and getattr(out, "pooler_output", None) is None:
            raise ConfigError(
                f"{origin.path}: has no pooling of its own: set pooling to first or mean"
            )
        patch = getattr(built.config, "patch_size", None)
        states = out.last_hidden_state
        self._prefix = 0  # tokens before the patches: of the class, and registers
        if states.ndim == 3 and isinstance(patch, int):
            self._prefix = states.shape[1] - (config.image_size // patch) ** 2
        tokens = self._tokens(out)
        self.tokens, self.token_width = int(tokens.shape[1]), int(tokens.shape[2])
        self.width = int(self._pooled(out).shape[1])

    def forward(self, pixel_values: Tensor, **others: object) -> Encoded:
        """See `ImageEncoder.forward`."""
        out = self._see(pixel_values)
        return Encoded(self._tokens(out), self._pooled(out))

    def _see(self, pixel_values: Tensor) -> TowerOutput:
        tower = cast(Tower, self.encoder)  # their classes type calls as nn.Module does
        return tower(pixel_values, **self._options)

    def _tokens(self, out: TowerOutput) -> Tensor:
        states = out.last_hidden_state
        if self._config.feature_layer != -1 and out.hidden_states is not None:
            states = out.hidden_states[self._config.feature_layer]
        return _as_tokens(states)[:, self._prefix :]

    def _pooled(self, out: TowerOutput) -> Tensor:
        if self._config.pooling == "pooler" and out.pooler_output is not None:
            return out.pooler_output.flatten(1)  # convolutional ones keep [batch, width, 1, 1]
        states = _as_tokens(out.last_hidden_state)  # [batch, tokens, width]
        return (
            states[:, 0] if self._config.pooling == "first" else states[:, self._prefix :].mean(1)
        )


def _as_tokens(states: Tensor) -> Tensor:
    """[batch, width, rows, columns] as [batch, rows * columns, width]; tokens as they are."""
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


class TimmNetwork(Protocol):
    """What is used of a network of timm."""

    num_features: int
    num_prefix_tokens: int

    def forward_features(self, pixel_values: Tensor) -> Tensor:
        """Tokens [batch, tokens, width] or maps [batch, width, rows, columns]."""

    def forward_head(self, features: Tensor, *, pre_logits: bool) -> Tensor:
        """The pooled vector, [batch, width]."""


class TimmEncoder(ImageEncoder):
    """A network of timm without its classifier."""

    def __init__(self, config: TimmConfig, *, origin: Origin | None = None) -> None:
        """Build by name; random weights unless there is a checkpoint.

        Raises:
            ConfigError: timm is not installed or has no such network, or weights do not fit.
        """
        super().__init__()
        self.net = _create(config)
        if origin is not None and origin.with_weights:
            self._load(origin)
        with torch.no_grad():
            probe = torch.zeros(1, config.channels, config.image_size, config.image_size)
            encoded = self.eval()(probe)
        self.train()
        self.tokens, self.token_width = encoded.tokens.shape[1:]
        self.width = int(encoded.pooled.shape[1])

    def _load(self, origin: Origin) -> None:
        path = origin.path / "model.safetensors" if origin.path.is_dir() else origin.path
        own = self.net.state_dict()
        state = {name: tensor for name, tensor in read_tensors(path).items() if name in own}
        wrong = [n for n in own if n not in state or state[n].shape != own[n].shape]
        if wrong:
            raise ConfigError(
                f"{path}: does not fit the network: {len(wrong)} tensors are missing or of other "
                f"shape, such as {wrong[0]}"
            )
        self.net.load_state_dict(state)

    def forward(self, pixel_values: Tensor, **others: object) -> Encoded:
        """See `ImageEncoder.forward`."""
        net = cast(TimmNetwork, self.net)
        features = net.forward_features(pixel_values)
        pooled = net.forward_head(features, pre_logits=True)
        if features.ndim == 4:
            if features.shape[1] != net.num_features:
                features = features.permute(0, 3, 1, 2)  # such as Swin: the channels are last
            return Encoded(_as_tokens(features), pooled)
        prefix = getattr(net, "num_prefix_tokens", 0)  # of the class, and registers
        return Encoded(features[:, prefix:], pooled)


def _create(config: TimmConfig) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ConfigError(
            "an encoder of timm needs the extra vision: pip install 'plumbline[vision]'"
        ) from None
    create: Callable[..., nn.Module] = timm.create_model
    options: dict[str, object] = {
        "pretrained": False,  # weights come from an entry of `weights`, never from a network
        "num_classes": 0,
        "in_chans": config.channels,
    }
    if config.arch not in timm.list_models():
        raise ConfigError(f"arch = {config.arch!r}: timm has no such network")
    try:
        return create(config.arch, img_size=config.image_size, **options)
    except TypeError:  # a convolutional network takes any size, and no such option
        return create(config.arch, **options)
