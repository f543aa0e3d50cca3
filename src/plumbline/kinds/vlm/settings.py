"""Settings of a vision-language task. No torch here."""

from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.evaluation.config import WrittenEvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.kinds.language.settings import PackedOrPadded, TokenTaskConfig
from plumbline.models.decoder_config import DecoderConfig


class VlmConfig(Config):
    """What is added to the aligned image encoder: projector and decoder."""

    projector_width: int = Field(256, ge=8)
    """Hidden width of the two-layer projector."""
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)

    def sources(self) -> dict[str, str | None]:
        """Part -> the checkpoint that it starts from."""
        return {"decoder": self.decoder.pretrained}

    def without_sources(self) -> "VlmConfig":
        """The same model once it is trained: where its parts came from no longer matters."""
        decoder = self.decoder.model_copy(update={"pretrained": None})
        return self.model_copy(update={"decoder": decoder})


class VlmTaskConfig(TokenTaskConfig):
    """What the vision-language model learns to say."""

    caption_prompt: str = "describe the image"
    captions_per_image: int = Field(1, ge=0)
    """Captions drawn for an image in an epoch; 0: only questions."""
    questions_per_image: int | None = Field(None, ge=0)
    """Questions drawn for an image in an epoch; None: all."""
    max_text_tokens: int = Field(64, ge=2)
    """A longer prompt or answer is cut at its end."""
    rows: PackedOrPadded = "packed"
    """Of images, each with all its questions."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> "VlmTaskConfig":
        if self.captions_per_image == 0 and self.questions_per_image == 0:
            raise ValueError("captions_per_image and questions_per_image are both 0")
        return self

    @property
    @override
    def has_lengths(self) -> bool:
        # What is drawn about an image is another each epoch, and so is its length.
        return False

    @override
    def start_modality(self, model: Config) -> str | None:
        return "image"


class VlmEvaluationConfig(WrittenEvaluationConfig):
    """Section `evaluate` of a vision-language task."""

    max_new_tokens: int = Field(64, ge=1)


class VlmExportConfig(ExportConfig):
    """Section `export` of a vision-language task."""

    max_new_tokens: int = Field(64, ge=1)
    """Longest answer."""

    @model_validator(mode="after")
    def _within_limits(self) -> "VlmExportConfig":
        self.check_longest("max_new_tokens", self.max_new_tokens)
        return self


SETTINGS = KindSettings(
    title="Vision-language model",
    model=VlmConfig,
    task=VlmTaskConfig,
    evaluate=VlmEvaluationConfig,
    export=VlmExportConfig,
    starts_from=("alignment",),
)
