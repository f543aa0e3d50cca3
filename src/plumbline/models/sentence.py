"""What makes one vector of a text's tokens in a model of sentence-transformers."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedConfig

from plumbline.errors import ConfigError
from plumbline.models.encoders import pool
from plumbline.models.pretrained import Origin
from plumbline.models.weights import read_tensors
from plumbline.weights.sentence import Dense, PoolingMode, SentenceModules

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Tanh, nn.Identity, nn.ReLU, nn.GELU, nn.Sigmoid)
}


@dataclass(frozen=True)
class SentenceArchitecture:
    """What `read_modules` and `AutoConfig` read, to be stored beside a trained model."""

    config: PreTrainedConfig
    modules: SentenceModules

    def save_pretrained(self, folder: Path, /) -> None:
        """Write both where a checkpoint of sentence-transformers has them."""
        self.config.save_pretrained(folder / self.modules.layers)
        self.modules.write(folder)


class _Normalize(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        """[batch, width], each row to length 1."""
        return normalize(vectors, dim=1)


class SentenceHead(nn.Module):
    """Pooling, and what its vector goes through."""

    def __init__(self, modules: SentenceModules, width: int, origin: Origin) -> None:
        """Build it, with the checkpoint's weights where the origin has some.

        Args:
            modules: what the checkpoint declares.
            width: of the tokens' vectors.
            origin: of the checkpoint, or of the architecture of a trained one.

        Raises:
            ConfigError: an activation is none of those that are known, or weights do not fit.
        """
        super().__init__()
        self._poolings = modules.poolings
        self.width = width * len(modules.poolings)
        self.behind = nn.Sequential()
        for module in modules.behind:
            if isinstance(module, Dense):
                self.behind.extend(_dense(module, self.width, origin))
                self.width = module.out_features
            else:
                self.behind.append(_Normalize())

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, seq, width] with its mask [batch, seq] bool to [batch, self.width]."""
        pooled = [_pool(hidden, mask, mode) for mode in self._poolings]
        vectors: Tensor = self.behind(torch.cat(pooled, dim=1))
        return vectors


def _pool(hidden: Tensor, mask: Tensor, mode: PoolingMode) -> Tensor:
    """Source: Muennighoff 2022, arXiv:2202.08904, section 3.1, for the weighted mean."""
    if mode == "cls":
        return pool(hidden, mask, "first")
    if mode == "lasttoken":
        return pool(hidden, mask, "last")
    if mode == "mean_sqrt_len_tokens":
        counts = mask.sum(dim=1, keepdim=True).to(hidden.dtype)  # [batch, 1]
        return pool(hidden, mask, "mean") * counts.sqrt()
    if mode == "weightedmean":
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        weights = (mask * places).unsqueeze(-1).to(hidden.dtype)  # [batch, seq, 1], later ones more
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    return pool(hidden, mask, mode)


def _dense(config: Dense, width: int, origin: Origin) -> list[nn.Module]:
    place = f"{origin.path / config.folder}"
    kind = _ACTIVATIONS.get(config.activation_function.rpartition(".")[2])
    if kind is None or not config.activation_function.startswith("torch.nn."):
        raise ConfigError(
            f"{place}: activation_function {config.activation_function!r} is not followed; "
            f"known are {', '.join(_ACTIVATIONS)} of torch.nn"
        )
    if config.in_features != width:
        raise ConfigError(f"{place}: takes {config.in_features} values, and is given {width}")
    linear = nn.Linear(width, config.out_features, bias=config.bias)
    if origin.with_weights:
        file = origin.path / config.folder / "model.safetensors"
        if not file.is_file():
            raise ConfigError(f"{file}: missing; save the model as safetensors")
        tensors = {n.removeprefix("linear."): t.float() for n, t in read_tensors(file).items()}
        try:
            linear.load_state_dict(tensors)
        except RuntimeError as error:
            raise ConfigError(f"{file}: {' '.join(str(error).split())[:200]}") from None
    return [linear, kind()]
