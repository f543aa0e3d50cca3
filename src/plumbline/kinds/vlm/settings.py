"""Settings of a vision-language task. No torch here."""

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.evaluation.config import WrittenEvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.kinds.language.settings import PackedOrPadded, TokenTaskConfig
from plumbline.loading.input_config import ImageInputConfig, InputConfig
from plumbline.loading.transform_config import AugmentConfig
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.encoder_config import AnyImageEncoder
from plumbline.models.projector_config import AnyProjector, MlpConfig
from plumbline.training.task_config import check_encoder


class VlmConfig(Config):
    """An image encoder, and what is added to it: projector and decoder."""

    image_encoder: AnyImageEncoder | None = None
    """None: the one of the alignment in the task's `start`."""
    projector: AnyProjector = Field(default_factory=lambda: MlpConfig(name="mlp"))
    """From the encoder's tokens to the width of the decoder."""
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    """From sizes, or from a checkpoint."""

    def sources(self) -> dict[str, str | None]:
        """Part -> the checkpoint that it starts from."""
        return {
            "image_encoder": self.image_encoder.source() if self.image_encoder else None,
            "projector": self.projector.source(),
            "decoder": self.decoder.pretrained,
        }

    def without_sources(self) -> "VlmConfig":
        """The same model once it is trained: where its parts came from no longer matters."""
        trained = {
            "image_encoder": None,  # it is stored beside, as it has become
            "projector": self.projector.without_sources(),
            "decoder": self.decoder.model_copy(update={"pretrained": None}),
        }
        return self.model_copy(update=trained)


class VlmTaskConfig(TokenTaskConfig):
    """What the vision-language model learns to say."""

    text: Literal["question_answer", "turns"] = "question_answer"
    """Questions about an image and captions of it, or conversations that show images; of these
    only the answers carry loss."""
    block_size: int = Field(512, ge=2)
    """Of conversations: tokens seen at a time, those of images among them; exchanges that do not
    fit go from the end."""
    caption_prompt: str = "describe the image"
    """The question to which captions are the answers."""
    captions_per_image: int = Field(1, ge=0)
    """Captions drawn for an image in an epoch; 0: only questions."""
    questions_per_image: int | None = Field(None, ge=0)
    """Questions drawn for an image in an epoch; None: all."""
    max_text_tokens: int = Field(64, ge=2)
    """Of questions and captions: a longer prompt or answer is cut at its end."""
    rows: PackedOrPadded = "packed"
    """Of images, each with all its questions, or of conversations."""
    inputs: ImageInputConfig | None = None
    """How images reach `model.image_encoder`; None, beside none: as in the alignment."""

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
        self._check_encoder(model)
        longest, decoder = model.decoder.max_positions, model.decoder
        # The positions of a checkpoint are known once it is loaded, and not before.
        if self.text == "turns" and not decoder.pretrained and self.block_size > longest:
            raise ValueError(
                f"task.block_size {self.block_size} is longer than model.decoder.max_positions "
                f"{longest}"
            )

    def _check_encoder(self, model: VlmConfig) -> None:
        encoder, inputs = model.image_encoder, self.inputs
        if encoder is None and inputs is not None:
            raise ValueError(
                "task.inputs is of model.image_encoder, which is null: images reach the encoder "
                "of the alignment as they did there; set model.image_encoder, or inputs to null"
            )
        if encoder is None or inputs is None:
            if encoder is not None:
                raise ValueError(
                    "model.image_encoder is set, and task.inputs is null: say how images reach "
                    "it, such as {modality: image, normalize: {preset: checkpoint}}"
                )
            return
        if inputs.augment != AugmentConfig():
            raise ValueError(
                "task.inputs.augment: what is said of images may be untrue of changed ones, which "
                "this task does not make; leave it out"
            )
        check_encoder(inputs, encoder, "image_encoder")

    @override
    def reads(self) -> InputConfig | None:
        return self.inputs

    @override
    def start_modality(self, model: Config) -> str | None:
        assert isinstance(model, VlmConfig)
        return "image" if model.image_encoder is None else None


class VlmEvaluationConfig(WrittenEvaluationConfig):
    """Section `evaluate` of a vision-language task."""

    max_new_tokens: int = Field(64, ge=1)
    """Longest answer."""


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
