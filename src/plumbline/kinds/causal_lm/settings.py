"""Settings of a causal language model. No torch here."""

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.kinds.language.settings import (
    LanguageEvaluationConfig,
    SamplingConfig,
    TextTaskConfig,
)
from plumbline.models.decoder_config import DecoderConfig


class CausalLmConfig(Config):
    """A causal language model."""

    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    """From sizes, or from a checkpoint."""

    def sources(self) -> dict[str, str | None]:
        """Part -> the checkpoint that it starts from."""
        return {"decoder": self.decoder.pretrained}

    def without_sources(self) -> "CausalLmConfig":
        """The same model once it is trained."""
        decoder = self.decoder.model_copy(update={"pretrained": None})
        return self.model_copy(update={"decoder": decoder})


class CausalLmTaskConfig(TextTaskConfig):
    """What the causal language model reads."""

    text: Literal["text", "question_answer", "turns"] = "text"
    """The column `text`, questions with answers, or conversations; of the latter two only the
    answers carry loss."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the target's probability that is spread over the whole vocabulary."""

    @model_validator(mode="after")
    def _stream_of_text(self) -> "CausalLmTaskConfig":
        if self.rows == "stream" and self.text != "text":
            read = {"turns": "conversations", "question_answer": "questions and answers"}
            raise ValueError(
                f"rows is stream, but {read[self.text]} are rows: set packed or padded"
            )
        return self

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, CausalLmConfig)
        decoder = model.decoder
        # The positions of a checkpoint are known once it is loaded, and not before.
        if not decoder.pretrained and self.block_size > decoder.max_positions:
            raise ValueError(
                f"task.block_size {self.block_size} is longer than model.decoder.max_positions "
                f"{decoder.max_positions}"
            )


class CausalLmExportConfig(ExportConfig):
    """Section `export` of a causal language model."""

    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    """What the bundle does where a request says nothing."""
    prompt_tokens: int = Field(16, ge=1)
    """Tokens of each parity sample that are given; as many again are generated and compared."""

    @model_validator(mode="after")
    def _within_limits(self) -> "CausalLmExportConfig":
        self.check_longest("sampling.max_new_tokens", self.sampling.max_new_tokens)
        return self


SETTINGS = KindSettings(
    title="Causal language model",
    model=CausalLmConfig,
    task=CausalLmTaskConfig,
    evaluate=LanguageEvaluationConfig,
    export=CausalLmExportConfig,
)
