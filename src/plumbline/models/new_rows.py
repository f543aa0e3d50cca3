"""Rows of embeddings and of the last map that train, while all others of the table stay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from plumbline.errors import ConfigError
from plumbline.models.four_bit import replace


class Rows(nn.Module):
    """The rows that train, under the name that peft has for them."""

    def __init__(self, table: Tensor, ids: Sequence[int]) -> None:
        """Begin with what a table [vocab, width] has of these ids."""
        super().__init__()
        self.trainable_tokens_delta = nn.Parameter(table.detach()[list(ids)].clone())


class EmbeddingWithRows(nn.Module):
    """An embedding of which some rows are elsewhere."""

    place: Tensor
    """[vocab], int64: which of the rows an id has, or -1."""

    def __init__(self, base: nn.Embedding, ids: Sequence[int], rows: Rows) -> None:
        """Look ids up in `rows`, and all others in `base`."""
        super().__init__()
        self.base_layer, self.token_adapter = base, rows
        place = torch.full((base.num_embeddings,), -1)
        place[list(ids)] = torch.arange(len(ids))
        # The same each time that it is built: no state.
        self.register_buffer("place", place, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Map [batch, seq] to [batch, seq, width]."""
        place = self.place[ids]
        rows = functional.embedding(place.clamp(min=0), self.token_adapter.trainable_tokens_delta)
        scale = getattr(self.base_layer, "embed_scale", None)  # Gemma types
        if scale is not None:
            rows = rows * scale.to(rows.dtype)
        return torch.where((place >= 0).unsqueeze(-1), rows, self.base_layer(ids))


class HeadWithRows(nn.Module):
    """A last map of which some rows are elsewhere."""

    ids: Tensor
    """[rows], int64."""

    def __init__(self, base: nn.Linear, ids: Sequence[int], rows: Rows) -> None:
        """Make logits of `ids` with `rows`, and all others with `base`."""
        super().__init__()
        # First, since the size of the vocabulary is read off the first parameter.
        self.base_layer, self.token_adapter = base, rows
        self.register_buffer("ids", torch.tensor(list(ids)), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., width] to [..., vocab]."""
        bias = self.base_layer.bias
        of_rows = functional.linear(
            hidden,
            self.token_adapter.trainable_tokens_delta,
            None if bias is None else bias[self.ids],
        )
        logits: Tensor = self.base_layer(hidden)
        return logits.index_copy(-1, self.ids, of_rows.to(logits.dtype))


class LanguagePart(Protocol):
    """What is used of a part that reads ids."""

    def get_input_embeddings(self) -> nn.Module:
        """The table of the tokens' vectors."""

    def get_output_embeddings(self) -> nn.Module | None:
        """The last map, to logits, where there is one."""


@dataclass(frozen=True)
class NewRows:
    """Where rows were put."""

    ids: list[int]
    places: dict[str, nn.Module]
    """Names within the part -> what stood there before."""
    tied: bool
    """Whether the last map has the embedding's table."""

    def tables(self) -> dict[str, list[int]]:
        """The ids by table, as peft's settings have them; it finds a tied map by itself."""
        names = [name.rpartition(".")[2] for name in self.places]
        return dict.fromkeys(names[:1] if self.tied else names, self.ids)


def put_rows(part: nn.Module, language: LanguagePart, ids: Sequence[int]) -> NewRows:
    """Let some rows of a part's tables train, in place of its embedding and last map.

    Args:
        part: a language model whose weights are frozen.
        language: the same.
        ids: of the rows.

    Raises:
        ConfigError: it shares its table in other ways than an embedding with its last map.
    """
    embedding, head = language.get_input_embeddings(), language.get_output_embeddings()
    modules = list(part.named_modules(remove_duplicate=False))
    table = getattr(embedding, "weight", None)
    held = [name for name, m in modules if getattr(m, "weight", None) is table and m is not head]
    if not isinstance(embedding, nn.Embedding) or len(held) != 1:
        raise ConfigError(
            f"new_tokens: a {type(part).__name__} has {len(held)} embeddings of one table, and "
            "rows can train of one; leave it out"
        )
    rows = Rows(embedding.weight, ids)
    made: dict[str, nn.Module] = {held[0]: EmbeddingWithRows(embedding, ids, rows)}
    places: dict[str, nn.Module] = {held[0]: embedding}
    tied = isinstance(head, nn.Linear) and head.weight is embedding.weight
    if isinstance(head, nn.Linear):
        name = next(name for name, module in modules if module is head)
        made[name] = HeadWithRows(head, ids, rows if tied else Rows(head.weight, ids))
        places[name] = head
    for name, module in made.items():
        replace(part, name, module)
    return NewRows(list(ids), places, tied)


def take_rows(part: nn.Module, new: NewRows) -> None:
    """Put what rows have learned into the tables, and these where they were."""
    for name, base in new.places.items():
        module = part.get_submodule(name)
        assert isinstance(module, EmbeddingWithRows | HeadWithRows)
        assert isinstance(base, nn.Embedding | nn.Linear)
        with torch.no_grad():
            base.weight[new.ids] = module.token_adapter.trainable_tokens_delta.to(base.weight)
        replace(part, name, base)
