"""Folders of sentence-transformers: the modules that make a vector of a text. No torch here.

Only what is declared in JSON is read; no class of theirs is imported by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from plumbline.errors import ConfigError
from plumbline.weights.declared import read_declared

MODULES = "modules.json"
_LENGTH = "sentence_bert_config.json"

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Activation = Literal["Tanh", "Identity", "ReLU", "GELU", "Sigmoid"]
SchemaT = TypeVar("SchemaT", bound=BaseModel)


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Listed(_Read):
    path: str
    type: str

    @property
    def name(self) -> str:
        """Of its class; the modules that hold it have moved between releases."""
        return self.type.rpartition(".")[2]


class _Pooling(_Read):
    pooling_mode: PoolingMode | Annotated[list[PoolingMode], Field(min_length=1)] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False

    def modes(self) -> list[PoolingMode]:
        """In the order in which their vectors are joined."""
        if self.pooling_mode is not None:
            one = self.pooling_mode
            return list(one) if isinstance(one, list) else [one]
        flags: list[tuple[PoolingMode, bool]] = [
            ("cls", self.pooling_mode_cls_token),
            ("max", self.pooling_mode_max_tokens),
            ("mean", self.pooling_mode_mean_tokens),
            ("mean_sqrt_len_tokens", self.pooling_mode_mean_sqrt_len_tokens),
            ("weightedmean", self.pooling_mode_weightedmean_tokens),
            ("lasttoken", self.pooling_mode_lasttoken),
        ]
        return [mode for mode, on in flags if on] or ["mean"]


class Dense(_Read):
    """A linear layer with an activation, on the vector of a text."""

    in_features: PositiveInt
    out_features: PositiveInt
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    module_output_name: Literal["sentence_embedding"] | None = None
    use_residual: Literal[False] = False
    folder: str = Field("", exclude=True)
    """Of its weights, within the checkpoint."""


class Normalize(_Read):
    """To length 1."""


class _Length(_Read):
    max_seq_length: int | None = Field(None, ge=3)  # a token within what frames it
    do_lower_case: Literal[False] = False


@dataclass(frozen=True)
class SentenceModules:
    """What stands behind each other in a folder of sentence-transformers."""

    layers: str
    """The folder of the transformer itself, within the checkpoint."""
    poolings: list[PoolingMode]
    behind: list[Dense | Normalize]
    """In order, after pooling."""
    longest: int | None
    """Tokens of a text with those that frame it."""
    files: Mapping[str, bytes]
    """What all this was read from, by name."""

    def write(self, folder: Path) -> None:
        """Write what `read_modules` reads."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def layers_folder(folder: Path) -> Path:
    """Where the transformer of a checkpoint lies: in it, or in a folder of its own within."""
    if not (folder / MODULES).is_file():
        return folder
    return folder / _listed(folder)[0].path


def read_modules(folder: Path) -> SentenceModules:
    """Read what a checkpoint of sentence-transformers declares.

    Raises:
        ConfigError: it declares nothing, or something that is not followed.
    """
    if not (folder / MODULES).is_file():
        raise ConfigError(
            f"{folder}: without {MODULES} it says nothing of pooling: set pooling to another value "
            "than checkpoint"
        )
    transformer, pooling, *others = _listed(folder)
    names = [module.name for module in (transformer, pooling, *others)]
    if names[:2] != ["Transformer", "Pooling"] or set(names[2:]) - {"Dense", "Normalize"}:
        raise ConfigError(
            f"{folder / MODULES}: {', '.join(names)}; what is followed is Transformer, Pooling, "
            "then any of Dense and Normalize"
        )
    files = {MODULES: (folder / MODULES).read_bytes()}

    def read(schema: type[SchemaT], path: str, name: str) -> SchemaT:
        inner = f"{path}/{name}" if path else name
        found = read_declared(schema, folder / inner)
        files[inner] = (folder / inner).read_bytes()
        return found

    behind: list[Dense | Normalize] = []
    for module in others:
        if module.name == "Normalize":
            behind.append(Normalize())
        else:
            dense = read(Dense, module.path, "config.json")
            behind.append(dense.model_copy(update={"folder": module.path}))
    length = _Length()
    if (folder / transformer.path / _LENGTH).is_file():
        length = read(_Length, transformer.path, _LENGTH)
    return SentenceModules(
        layers=transformer.path,
        poolings=read(_Pooling, pooling.path, "config.json").modes(),
        behind=behind,
        longest=length.max_seq_length,
        files=files,
    )


def _listed(folder: Path) -> list[_Listed]:
    """The modules in order.

    Raises:
        ConfigError: the list is damaged, short, or of folders elsewhere.
    """
    listed = read_declared(list[_Listed], folder / MODULES)
    for module in listed:
        # It is written as well, beside a trained model.
        place = Path(module.path)
        if place.is_absolute() or ".." in place.parts or "\0" in module.path:
            raise ConfigError(f"{folder / MODULES}: path {module.path!r} leads out of the folder")
    if len(listed) < 2:
        raise ConfigError(f"{folder / MODULES}: lists {len(listed)} modules, at least 2 are needed")
    return listed
