"""What a checkpoint says of the sounds that it was trained on. No torch here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plumbline.errors import ConfigError
from plumbline.loading.input_config import AudioInputConfig

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
        config = (folder / "config.json").read_bytes()
        # What its encoder takes, which may be less than the chunk of its processor.
        frames = 2 * _WhisperModel.model_validate_json(config).max_source_positions
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

    max_source_positions: int
    """Tokens of the encoder, one for two frames."""


class _Waveform(_Read):
    """preprocessor_config.json of a type of wav2vec 2.0; older ones do not name their type."""

    feature_extractor_type: Literal["Wav2Vec2FeatureExtractor"] = "Wav2Vec2FeatureExtractor"
    feature_size: Literal[1]
    sampling_rate: int
    do_normalize: bool = True
    padding_value: _Zero = 0.0

    def said(self, folder: Path) -> Said:
        model = _WaveformModel.model_validate_json((folder / "config.json").read_bytes())
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

    conv_kernel: list[int]
    conv_stride: list[int]


class _Kind(_Read):
    """Which kind of processor wrote a file."""

    feature_extractor_type: str | None = None


class _Joint(_Read):
    """processor_config.json, where a processor of sounds and texts holds that of sounds."""

    feature_extractor: _Whisper | _Waveform

    def said(self, folder: Path) -> Said:
        return self.feature_extractor.said(folder)

    @property
    def sampling_rate(self) -> int:
        return self.feature_extractor.sampling_rate


def settle_audio(inputs: AudioInputConfig, folder: Path) -> AudioInputConfig:
    """Put in what a checkpoint says of the form of its sounds.

    Args:
        inputs: of form checkpoint; `max_steps` may cut waveforms.
        folder: of the checkpoint.

    Raises:
        ConfigError: none of its files says it, or the sample rate is another one.
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
    return AudioInputConfig.model_validate({**own, **said})


def _read_processor(folder: Path) -> _Whisper | _Waveform | _Joint:
    kinds: list[str] = []
    for name in _FILES:
        file = folder / name
        for schema in (_Whisper, _Waveform, _Joint) if file.is_file() else ():
            try:
                return schema.model_validate_json(file.read_bytes())
            except ValidationError:
                continue
        if file.is_file():
            kind = _Kind.model_validate_json(file.read_bytes()).feature_extractor_type
            kinds += [f" ({kind})"] if kind else []
    raise ConfigError(
        f"{folder}: none of {', '.join(_FILES)} says how sounds are prepared in a way that is "
        f"known here{''.join(kinds)}: set task.inputs.form and what belongs to it"
    )
