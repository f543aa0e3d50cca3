"""What rows are judged by, made from the settings."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from plumbline.data.columns import CONTENT, Kind
from plumbline.validation.audio_check import AudioLimits
from plumbline.validation.cells import CellRules, make_cell_rules
from plumbline.validation.features_check import FeatureLimits
from plumbline.validation.image_check import ImageLimits
from plumbline.validation.settings import ValidationConfig

if TYPE_CHECKING:
    from PIL import Image


class Rules(NamedTuple):
    """What rows are judged by."""

    columns: Sequence[str]
    """Content columns, in canonical order; bit i of a mask stands for the i-th."""
    views: Mapping[str, Sequence[str]]
    """View name -> the columns it needs; bit i of a mask stands for the i-th."""
    kinds: Mapping[Kind, CellRules]
    labels: Mapping[str, frozenset[str]]
    """Part -> the labels that it may have; a part that is not named may have any."""
    channels: int | None
    """Channels of features; None where there are none."""
    seed: int

    def of(self, column: str) -> CellRules:
        """What is asked of the cells of a content column."""
        return self.kinds[CONTENT[column]]


def make_rules(
    config: ValidationConfig,
    columns: Sequence[str],
    look: "Callable[[bytes, Image.Image], None] | None" = None,
) -> Rules:
    """Make the rules for content columns.

    Args:
        config: the settings.
        columns: those that a view needs, in canonical order.
        look: is shown what is decoded, as `ImageLimits` says.
    """
    level = config.level
    kinds = make_cell_rules(
        ImageLimits(level, config.min_side_px, config.max_pixels, config.max_image_bytes, look),
        AudioLimits(level, config.min_audio_s, config.max_audio_s, config.max_audio_bytes),
        FeatureLimits(level, config.max_steps, config.max_features_bytes),
        config.max_text_chars,
        shown="images" in columns,
    )
    labels = {part: frozenset(names) for part, names in config.labels.items()}
    return Rules(columns, config.views, kinds, labels, config.channels, config.split.seed)
