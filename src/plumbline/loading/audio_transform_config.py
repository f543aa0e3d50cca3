"""Settings of the audio transforms; no torch here."""

from typing import Literal

from pydantic import Field, model_validator

from plumbline.config import Config
from plumbline.loading.mel import mel_filters


class AudioAugmentConfig(Config):
    """What training does to a clip; off by default."""

    shift_ms: float = Field(0.0, ge=0.0)
    """A clip moves by up to so much either way; what leaves is lost, silence comes in."""
    gain_db: float = Field(0.0, ge=0.0, le=60.0)
    """Gains are drawn from -x to +x decibels; without effect where features are normalised."""
    time_masks: int = Field(0, ge=0)
    time_width: int = Field(0, ge=0)
    """Frames: each mask covers 0 to this many."""
    time_share: float = Field(1.0, gt=0.0, le=1.0)
    """Upper bound of one time mask, as a share of the frames of the clip."""
    mel_masks: int = Field(0, ge=0)
    mel_width: int = Field(0, ge=0)
    """Mel bands: each mask covers 0 to this many."""

    @model_validator(mode="after")
    def _masks_have_width(self) -> "AudioAugmentConfig":
        for name in ("time", "mel"):
            if getattr(self, f"{name}_masks") and not getattr(self, f"{name}_width"):
                raise ValueError(f"{name}_masks without {name}_width mask nothing")
        return self


class AudioTransformConfig(Config):
    """How samples become a log-mel spectrogram."""

    sample_rate: int = Field(16_000, ge=1000)
    """Hz; the rate at which the cache holds the clips."""
    n_mels: int = Field(128, ge=1)
    window_ms: float = Field(25.0, gt=0.0)
    hop_ms: float = Field(10.0, gt=0.0)
    fft: int = Field(400, ge=2)
    """Samples per transform; a shorter window is centred in it."""
    edges: Literal["reflect", "zero"] = "reflect"
    """What frames see beyond the ends of a clip."""
    scale: Literal["whisper", "log"] = "whisper"
    """whisper: log10 down to 8 below the clip's maximum, then (x + 4) / 4; log: natural."""
    normalize: Literal["none", "clip"] = "none"
    """clip: to mean 0 and deviation 1 over the frames and bands of each clip."""
    augment: AudioAugmentConfig = Field(default_factory=AudioAugmentConfig)

    @model_validator(mode="after")
    def _fits(self) -> "AudioTransformConfig":
        if not 2 <= self.window <= self.fft:
            raise ValueError(
                f"window_ms {self.window_ms} is {self.window} samples: must be 2 to fft {self.fft}"
            )
        if not 1 <= self.hop <= self.window:
            raise ValueError(
                f"hop_ms {self.hop_ms} is {self.hop} samples: must be 1 to the window's "
                f"{self.window}, or samples are skipped"
            )
        heights = mel_filters(self.n_mels, self.fft, self.sample_rate).max(axis=0)
        if empty := int((heights == 0).sum()):
            raise ValueError(
                f"{empty} of n_mels {self.n_mels} bands hold no frequency of fft {self.fft} at "
                f"{self.sample_rate} Hz: lower n_mels or raise fft"
            )
        return self

    @property
    def window(self) -> int:
        """Samples under the window."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples between the centres of two frames."""
        return round(self.sample_rate * self.hop_ms / 1000)
