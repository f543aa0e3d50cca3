"""Settings of a vision-language task. No torch here."""

from typing import Literal

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

    text: Literal["question_answer", "turns"] = "question_answer"
    """Questions about an image and captions of it, or conversations that show images; of these
    only the answers carry loss."""
    block_size: int = Field(512, ge=2)
    """Of conversations: tokens seen at a time, those of images among them; exchanges that do not
    fit go from the end."""
    caption_prompt: str = "describe the image"
    captions_per_image: int = Field(1, ge=0)
    """Captions drawn for an image in an epoch; 0: only questions."""
    questions_per_image: int | None = Field(None, ge=0)
    """Questions drawn for an image in an epoch; None: all."""
    max_text_tokens: int = Field(64, ge=2)
    """Of questions and captions: a longer prompt or answer is cut at its end."""
    rows: PackedOrPadded = "packed"
    """Of images, each with all its questions, or of conversations."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> "VlmTaskConfig":
        if self.text == "turns":
            drawn = {"captions_per_image": 1, "questions_per_image": None}
            if unread := [name for name, plain in drawn.items() if getattr(self, name) != plain]:
                raise ValueError(f"text is turns, of which none are drawn: leave {unread[0]} out")
        elif self.captions_per_image == 0 and self.questions_per_image == 0:
            raise ValueError("captions_per_image and questions_per_image are both 0")
        return self

    @property
    @override
    def has_lengths(self) -> bool:
        # What is drawn about an image is another each epoch, and so is its length.
        return self.text == "turns"

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, VlmConfig)
        longest, decoder = model.decoder.max_positions, model.decoder
        # The positions of a checkpoint are known once it is loaded, and not before.
        if self.text == "turns" and not decoder.pretrained and self.block_size > longest:
            raise ValueError(
                f"task.block_size {self.block_size} is longer than model.decoder.max_positions "
                f"{longest}"
            )

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
