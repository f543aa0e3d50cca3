"""Settings of validation: what a row needs to be clean, and how data is split."""

from pydantic import Field, field_validator, model_validator

from plumbline.config import Config
from plumbline.data.audio_headers import MAX_SECONDS
from plumbline.data.columns import CONTENT, MAX_CELL_BYTES, SHOWN
from plumbline.data.image_parts import MAX_PIXELS
from plumbline.data.undecodable import MAX_BYTES
from plumbline.validation.faults import Fault, Level
from plumbline.validation.leaks import LeakConfig
from plumbline.validation.target_check import clean_label


class SplitConfig(Config):
    """How to split data that brings no split, or no validation split."""

    seed: int = 0
    """Of the hash that splits groups; another one gives other splits."""
    val: float = Field(default=0.1, ge=0.0, le=0.5)
    """Share of the groups that become the validation split; 0 switches it off."""
    test: float = Field(default=0.1, ge=0.0, le=0.5)
    """Share of the groups that become the test split, where no row brings a split at all."""
    min_rows: int = Field(default=10, ge=0)
    """Fewest rows of a drawn validation split, as long as train keeps half of the rows."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "SplitConfig":
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} and test {self.test} leave nothing for train")
        return self


class ValidationConfig(Config):
    """What a row needs to be clean, and how many may fail."""

    views: dict[str, list[str]]
    """View name -> the columns that a row must have to be of use to it."""
    level: Level = "full"
    """How closely to look at media: cheap at length and first bytes, header also at what the file
    says of its size; full decodes it too."""
    min_side_px: int = Field(default=2, ge=1)
    """Shortest side of an image, in pixels."""
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=MAX_PIXELS)
    """Most pixels of an image; the decoder's own bounds on memory and time hold beside it."""
    max_image_bytes: int = Field(default=MAX_BYTES, ge=1, le=MAX_BYTES)
    """Longest image, encoded; the cheap level looks at this and the first bytes alone."""
    min_audio_s: float = Field(default=0.01, ge=0.0)
    """Shortest clip, in seconds."""
    max_audio_s: float = Field(default=300.0, gt=0.0, le=MAX_SECONDS)
    """Longest clip, in seconds."""
    max_audio_bytes: int = Field(default=MAX_BYTES, ge=1, le=MAX_BYTES)
    """Longest clip, encoded."""
    max_steps: int = Field(default=100_000, ge=1)
    """Longest features, in steps of time."""
    max_features_bytes: int = Field(default=MAX_BYTES, ge=1, le=MAX_BYTES)
    """Largest array of features, encoded."""
    channels: int | None = Field(default=None, ge=1)
    """Channels of features; null takes those of the first row whose features are good."""
    labels: dict[str, list[str]] = {}
    """Part -> the labels that it may have; the unnamed part is "". Others may have any."""
    max_text_chars: int = Field(default=400_000, ge=1, le=MAX_CELL_BYTES // 4 - 1)
    """Longest text, in characters; one whose every byte is a token takes some 600 bytes a character
    while it is encoded."""
    max_dropped_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of rows lost to faults or leaks above which validation fails.

    Repeated ids do not count: a row that is there already is no loss.
    """
    split: SplitConfig = SplitConfig()
    """How data is split that brings no splits, or no validation split."""
    leaks: LeakConfig = LeakConfig()
    """What is done about content that stands in several splits."""

    @field_validator("views")
    @classmethod
    def _names_columns(cls, views: dict[str, list[str]]) -> dict[str, list[str]]:
        if not views:
            raise ValueError("name at least one view")
        used = {name for columns in views.values() for name in columns}
        if "images" in used and "turns" not in used:
            raise ValueError("a view has images, which turns show, but none has turns")
        for view, columns in views.items():
            if not columns or len(set(columns)) < len(columns):
                raise ValueError(f"view {view} must name columns, each of them once")
            if unknown := set(columns) - set(CONTENT):
                known = ", ".join(CONTENT)
                raise ValueError(f"view {view}: no column {min(unknown)!r}; one of {known}")
            if len(media := [name for name in columns if name in SHOWN]) > 1:
                raise ValueError(f"view {view}: {' and '.join(media)}, of which a row has one")
        return views

    @field_validator("labels")
    @classmethod
    def _names_clean_labels(cls, labels: dict[str, list[str]]) -> dict[str, list[str]]:
        for part, names in labels.items():
            if not names or len(set(names)) < len(names):
                raise ValueError(f"part {part!r} must name labels, each of them once")
            for name in names:
                found = clean_label(name.encode("utf-8", "surrogatepass"))
                if isinstance(found, Fault) or found.text != name:
                    raise ValueError(f"part {part!r}: {name!r} is not what clean data can hold")
        return labels

    @model_validator(mode="after")
    def _fits_together(self) -> "ValidationConfig":
        used = {name for columns in self.views.values() for name in columns}
        if self.leaks.near_images and self.level != "full":
            raise ValueError(
                f"leaks.near_images compares decoded images, and level {self.level} decodes none: "
                "set level full, or leaks.near_images null"
            )
        if self.labels and "label" not in used:
            raise ValueError("labels are given, but no view has the column label")
        if self.channels and "features" not in used:
            raise ValueError("channels are given, but no view has the column features")
        if self.min_audio_s > self.max_audio_s:
            raise ValueError(
                f"min_audio_s {self.min_audio_s} is above max_audio_s {self.max_audio_s}"
            )
        return self
