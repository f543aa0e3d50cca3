"""What a checkpoint says of the sounds that it was trained on. No torch here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from plumbline.errors import ConfigError
from plumbline.loading.input_config import AudioInputConfig
from plumbline.weights.declared import check_declared, first_fault, read_declared

_FILES = ("preprocessor_config.json", "processor_config.json")

Said = Mapping[str, str | float]
"""Settings of the inputs, by name."""

_Zero = Annotated[float, Field(ge=0, le=0)]
"""What is done here as if it were 0."""


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Whisper(_Read):
    """preprocessor_config.json of a Whisper type, as transformers writes it."""

    feature_extractor_type: Literal["WhisperFeatureExtractor"]
    feature_size: int
    hop_length: int
    n_fft: int
    sampling_rate: Literal[16_000] = 16_000  # their bands end at 8000 Hz, whatever the rate is
    dither: _Zero = 0.0
    padding_value: _Zero = 0.0

    def said(self, folder: Path) -> Said:
        # What its encoder takes, which may be less than the chunk of its processor.
        frames = 2 * read_declared(_WhisperModel, folder / "config.json").max_source_positions
        return {
            "form": "log_mel",
            "n_mels": self.feature_size,
            "window_ms": 1000 * self.n_fft / self.sampling_rate,
            "hop_ms": 1000 * self.hop_length / self.sampling_rate,
            "fft": self.n_fft,
            "edges": "reflect",
            "scale": "whisper",
            "normalize": "none",
            "min_steps": frames,
            "max_steps": frames,
        }


class _WhisperModel(_Read):
    """config.json of a Whisper type."""

    max_source_positions: PositiveInt
    """Tokens of the encoder, one for two frames."""


class _Waveform(_Read):
    """preprocessor_config.json of a type of wav2vec 2.0; older ones do not name their type."""

    feature_extractor_type: Literal["Wav2Vec2FeatureExtractor"] = "Wav2Vec2FeatureExtractor"
    feature_size: Literal[1]
    sampling_rate: int
    do_normalize: bool = True
    padding_value: _Zero = 0.0

    def said(self, folder: Path) -> Said:
        model = read_declared(_WaveformModel, folder / "config.json")
        reach = 1  # samples that one token hears
        for kernel, stride in reversed([*zip(model.conv_kernel, model.conv_stride, strict=True)]):
            reach = (reach - 1) * stride + kernel
        return {
            "form": "waveform",
            "normalize": "clip" if self.do_normalize else "none",
            "min_steps": reach,
        }


class _WaveformModel(_Read):
    """config.json of a type of wav2vec 2.0."""

    conv_kernel: list[PositiveInt]
    conv_stride: list[PositiveInt]

    @model_validator(mode="after")
    def _as_many(self) -> "_WaveformModel":
        if len(self.conv_kernel) != len(self.conv_stride):
            raise ValueError(
                f"conv_kernel is of {len(self.conv_kernel)} layers, conv_stride of "
                f"{len(self.conv_stride)}"
            )
        return self


_TYPES: Mapping[str, type[_Whisper] | type[_Waveform]] = {
    "WhisperFeatureExtractor": _Whisper,
    "Wav2Vec2FeatureExtractor": _Waveform,
}


def settle_audio(inputs: AudioInputConfig, folder: Path) -> AudioInputConfig:
    """Put in what a checkpoint says of the form of its sounds.

    Args:
        inputs: of form checkpoint; `max_steps` may cut waveforms.
        folder: of the checkpoint.

    Raises:
        ConfigError: none of its files says it or one is damaged, the sample rate is another one,
            or what is set beside it does not go with it.
    """
    found = _read_processor(folder)
    if found.sampling_rate != inputs.sample_rate:
        raise ConfigError(
            f"{folder}: was trained on clips of {found.sampling_rate} Hz, but task.inputs."
            f"sample_rate = {inputs.sample_rate}: set it, and tokenize.sample_rate of the dataset"
        )
    own = inputs.model_dump(include=inputs.model_fields_set)
    said = found.said(folder)
    if own.get("max_steps") is not None and "max_steps" in said:
        raise ConfigError(
            f"{folder}: takes {said['max_steps']} steps of every clip, no fewer and no more: "
            "leave task.inputs.max_steps out"
        )
    try:
        return AudioInputConfig.model_validate({**own, **said})
    except ValidationError as error:
        raise ConfigError(
            f"{folder}: what it says of sounds and task.inputs do not go together: "
            f"{first_fault(error)}"
        ) from None


def _read_processor(folder: Path) -> _Whisper | _Waveform:
    unknown: list[str] = []
    for file in [folder / name for name in _FILES if (folder / name).is_file()]:
        said = read_declared(dict[str, object], file)
        # One of sounds and texts holds that of sounds.
        held = said.get("feature_extractor", said)
        own: dict[str, object] = held if isinstance(held, dict) else {}
        name = own.get("feature_extractor_type")
        if name is None and {"feature_size", "sampling_rate"} <= own.keys():
            return check_declared(_Waveform, own, file)
        if schema := _TYPES.get(str(name)):
            return check_declared(schema, own, file)
        unknown += [f" ({name})"] if name else []
    raise ConfigError(
        f"{folder}: none of {', '.join(_FILES)} says how sounds are prepared in a way that is "
        f"known here{''.join(unknown)}: set task.inputs.form and what belongs to it"
    )
