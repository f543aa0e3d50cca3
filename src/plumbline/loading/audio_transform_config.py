"""Settings of the audio transforms; no torch here."""

from typing import ClassVar, Literal

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
    """Stretches of frames that are covered with the clip's mean."""
    time_width: int = Field(0, ge=0)
    """Frames: each mask covers 0 to this many."""
    time_share: float = Field(1.0, gt=0.0, le=1.0)
    """Upper bound of one time mask, as a share of the frames of the clip."""
    mel_masks: int = Field(0, ge=0)
    """Stretches of mel bands that are covered with the clip's mean."""
    mel_width: int = Field(0, ge=0)
    """Mel bands: each mask covers 0 to this many."""

    @model_validator(mode="after")
    def _masks_have_width(self) -> "AudioAugmentConfig":
        for name in ("time", "mel"):
            if getattr(self, f"{name}_masks") and not getattr(self, f"{name}_width"):
                raise ValueError(f"{name}_masks without {name}_width mask nothing")
        return self


class AudioTransformConfig(Config):
    """How samples become the steps that an encoder takes."""

    _BESIDE_CHECKPOINT: ClassVar[frozenset[str]] = frozenset(
        {"modality", "form", "sample_rate", "max_steps", "augment"}
    )
    """What may be said beside form checkpoint."""

    form: Literal["log_mel", "waveform", "checkpoint"] = "log_mel"
    """A spectrogram of n_mels channels, the samples themselves as one channel, or what the
    encoder's checkpoint was trained on, as its processor says it."""
    sample_rate: int = Field(16_000, ge=1000)
    """Hz; the rate at which the cache holds the clips."""
    min_steps: int = Field(0, ge=0)
    """Shorter clips are followed by silence up to so many frames or samples; 0: none is added."""
    max_steps: int | None = Field(None, ge=1)
    """Clips of more frames or samples are cut at their end; None: none is."""
    n_mels: int = Field(128, ge=1)
    """Mel bands of a frame."""
    window_ms: float = Field(25.0, gt=0.0)
    """Length of the window of a frame."""
    hop_ms: float = Field(10.0, gt=0.0)
    """From the centre of one frame to that of the next."""
    fft: int = Field(400, ge=2)
    """Samples per transform; a shorter window is centred in it."""
    edges: Literal["reflect", "zero"] = "reflect"
    """What frames see beyond the ends of a clip."""
    scale: Literal["whisper", "log"] = "whisper"
    """whisper: log10 down to 8 below the clip's maximum, then (x + 4) / 4; log: natural."""
    normalize: Literal["none", "clip"] = "none"
    """clip: to mean 0 and deviation 1 over the frames and bands, or the samples, of each clip."""
    augment: AudioAugmentConfig = Field(default_factory=AudioAugmentConfig)
    """What training does to clips."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> "AudioTransformConfig":
        if self.max_steps is not None and self.min_steps > self.max_steps:
            raise ValueError(f"min_steps {self.min_steps} is more than max_steps {self.max_steps}")
        if self.form == "checkpoint":
            if said := sorted(self.model_fields_set - self._BESIDE_CHECKPOINT):
                raise ValueError(
                    f"form checkpoint takes {', '.join(said)} from the checkpoint: leave it out"
                )
        elif self.form == "log_mel" and self.min_steps and self.normalize == "clip":
            raise ValueError(
                f"min_steps {self.min_steps} and normalize clip contradict: silence has no place "
                "on the scale of a clip"
            )
        elif self.form == "waveform" and (self.augment.time_masks or self.augment.mel_masks):
            raise ValueError("augment.time_masks and mel_masks cover spectrograms, not a waveform")
        return self

    @model_validator(mode="after")
    def _bands_fit(self) -> "AudioTransformConfig":
        if self.form != "log_mel":
            return self
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

    @property
    def channels(self) -> int:
        """Of a step."""
        return 1 if self.form == "waveform" else self.n_mels

    @property
    def samples_per_step(self) -> int:
        """From one step to the next."""
        return 1 if self.form == "waveform" else self.hop

    def samples_used(self, samples: int) -> int:
        """Samples that steps are made of: of a clip that is cut, or with silence behind it.

        Silence is counted as far as frames still hear the clip beside it; those that come after
        hold silence alone, and nothing need be computed for them.
        """
        if self.max_steps is not None:
            samples = min(samples, self.max_steps * self.samples_per_step)
        if self.form == "waveform":
            return samples
        # Frame i begins half a transform before its centre at i * hop.
        hearing = -(-(samples + self.fft // 2) // self.hop)
        return max(samples, min(hearing, self.min_steps) * self.hop)

    def count_steps(self, samples: int) -> int:
        """Steps that come of a clip, those of silence behind it included."""
        steps = (self.samples_used(samples) - 1) // self.samples_per_step + 1
        return max(steps, self.min_steps)
