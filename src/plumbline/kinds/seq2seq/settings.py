"""Settings of an encoder-decoder. No torch here."""

from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.evaluation.config import WrittenEvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.kinds.language.settings import PackedOrPadded, TokenTaskConfig


class Seq2SeqConfig(Config):
    """A Marian-type encoder-decoder with one embedding for both: from sizes, or a checkpoint."""

    pretrained: str | None = None
    """An entry of `weights`; then the sizes below are not used."""
    width: int = Field(256, ge=8)
    """Of the embeddings and of every layer."""
    encoder_layers: int = Field(3, ge=1)
    """Transformer layers that read the source."""
    decoder_layers: int = Field(3, ge=1)
    """Transformer layers that write the target."""
    heads: int = Field(4, ge=1)
    """Attention heads of a layer; width must be a multiple of it."""
    mlp_width: int = Field(1024, ge=8)
    """Hidden width of the feed-forward half of a layer."""
    max_positions: int = Field(256, ge=4)
    """Longest source and longest target, in tokens, with what frames them."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Probability that a value of a layer is left out in training."""

    @model_validator(mode="after")
    def _fits(self) -> "Seq2SeqConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def sources(self) -> dict[str, str | None]:
        """The checkpoints that parts start from."""
        return {"net": self.pretrained}

    def without_sources(self) -> "Seq2SeqConfig":
        """The same model once it is trained."""
        return self.model_copy(update={"pretrained": None})


class Seq2SeqTaskConfig(TokenTaskConfig):
    """What the encoder-decoder learns to write."""

    max_source_tokens: int = Field(126, ge=1)
    """Longer sources are cut; what frames them comes on top."""
    max_target_tokens: int = Field(126, ge=1)
    """Longer targets are cut; what frames them comes on top."""
    rows: PackedOrPadded = "packed"
    """Whole samples one behind the other, or each in a row of its own: the same is learned."""
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the target's probability that is spread over the whole vocabulary."""

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, Seq2SeqConfig)
        longest = max(self.max_source_tokens, self.max_target_tokens) + 2  # with bos and eos
        # The positions of a checkpoint are known once it is loaded, and not before.
        if not model.pretrained and longest > model.max_positions:
            raise ValueError(
                f"task.max_source_tokens, max_target_tokens: up to {longest} with what frames "
                f"them, more than model.max_positions {model.max_positions}"
            )


class Seq2SeqEvaluationConfig(WrittenEvaluationConfig):
    """Section `evaluate` of an encoder-decoder."""

    beams: int = Field(4, ge=1)
    """Hypotheses kept per source; 1: greedy."""
    length_penalty: float = 1.0
    """Scores are divided by length to this power: higher values favour longer texts."""
    max_new_tokens: int = Field(100, ge=1)
    """Longest text that is written."""


class Seq2SeqExportConfig(ExportConfig):
    """Section `export` of an encoder-decoder; parity is measured greedily."""

    beams: int = Field(4, ge=1, le=64)
    """Hypotheses kept where a request does not say how many; 1: greedy."""
    length_penalty: float = Field(1.0, ge=-10.0, le=10.0)
    """Scores are divided by length to this power: higher values favour longer texts."""
    max_new_tokens: int = Field(100, ge=1)
    """Longest text that is written where a request does not say."""
    parity_tokens: int = Field(32, ge=1)
    """Longest target that is written for parity."""

    @model_validator(mode="after")
    def _within_limits(self) -> "Seq2SeqExportConfig":
        self.check_longest("max_new_tokens", self.max_new_tokens)
        return self


SETTINGS = KindSettings(
    title="Sequence to sequence",
    model=Seq2SeqConfig,
    task=Seq2SeqTaskConfig,
    evaluate=Seq2SeqEvaluationConfig,
    export=Seq2SeqExportConfig,
)
