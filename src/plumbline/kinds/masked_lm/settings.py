"""Settings of a masked language model. No torch here."""

from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.kinds.language.settings import LanguageEvaluationConfig, TextTaskConfig


class MaskedLmConfig(Config):
    """A BERT-type masked language model: from these sizes, or from a checkpoint."""

    pretrained: str | None = None
    """An entry of `weights`; then the sizes below are not used."""
    width: int = Field(128, ge=8)
    """Of the embeddings and of every layer."""
    layers: int = Field(4, ge=1)
    """Transformer layers."""
    heads: int = Field(4, ge=1)
    """Attention heads of a layer; width must be a multiple of it."""
    mlp_width: int = Field(512, ge=8)
    """Hidden width of the feed-forward half of a layer."""
    max_positions: int = Field(512, ge=4)
    """Longest input, in tokens."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a value of a layer or of its attention is left out in training."""

    @model_validator(mode="after")
    def _fits(self) -> "MaskedLmConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def sources(self) -> dict[str, str | None]:
        """The checkpoints that parts start from."""
        return {"encoder": self.pretrained}

    def without_sources(self) -> "MaskedLmConfig":
        """The same model once it is trained."""
        return self.model_copy(update={"pretrained": None})


class MaskedLmTaskConfig(TextTaskConfig):
    """What the masked language model has to guess."""

    masked_share: float = Field(0.15, gt=0.0, lt=1.0)
    """Of tokens to guess: 80 % of them are hidden, 10 % replaced by any token, 10 % kept."""

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, MaskedLmConfig)
        # The positions of a checkpoint are known once it is loaded, and not before.
        if not model.pretrained and self.block_size > model.max_positions:
            raise ValueError(
                f"task.block_size {self.block_size} is longer than model.max_positions "
                f"{model.max_positions}"
            )


class MaskedLmExportConfig(ExportConfig):
    """Section `export` of a masked language model."""

    candidates: int = Field(5, ge=1, le=1000)
    """Tokens named for a gap where a request does not say how many."""


SETTINGS = KindSettings(
    title="Masked language model",
    model=MaskedLmConfig,
    task=MaskedLmTaskConfig,
    evaluate=LanguageEvaluationConfig,
    export=MaskedLmExportConfig,
)
