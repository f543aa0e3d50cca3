"""What distributions.json of `detect_shapes` holds: how what a training is given is distributed.

No training reads it, so that another figure here trains nothing again.
"""

from typing import NotRequired, TypedDict

from plumbline.shapes.spread import Spread, ValueSpread

DISTRIBUTIONS = "distributions.json"
"""The file, in the folder of the stage that wrote it."""


class MostFrequent(TypedDict):
    """The text that most rows have."""

    text: str
    """Its beginning."""
    rows: int


class ColumnSpread(TypedDict, total=False):
    """Of a column in the rows of a view; absent is what it does not have."""

    distinct: int
    """Different cells; of media all below is of these, each once."""
    modes: dict[str, int]
    """Format and mode in Pillow's words -> images."""
    width: Spread
    """Pixels."""
    height: Spread
    """Pixels."""
    short_side: Spread
    """Pixels."""
    aspect: Spread
    """Width by height."""
    images_a_row: Spread
    """Of turns that show some."""
    sample_rates: dict[str, int]
    """Hz -> clips."""
    channels: dict[str, int]
    """Channels -> clips."""
    seconds: Spread
    """Of clips."""
    steps: Spread
    """Of features."""
    constant: int
    """Arrays of features in which no channel changes, of two steps or more."""
    chars: Spread
    """Of texts, and of all that is said in a conversation; over rows."""
    turns: Spread
    """Of conversations; over rows."""
    most_frequent: MostFrequent


class ViewSpread(TypedDict):
    """Of the rows that have all columns of a view."""

    rows: int
    columns: dict[str, ColumnSpread]


class LabelSpread(TypedDict):
    """Of the labels that train has of a part."""

    classes: int
    rows: int
    most: tuple[str, int]
    """The most frequent class with its rows."""
    least: tuple[str, int]
    imbalance: float
    """Rows of the most frequent class by those of the rarest one."""
    rare: int
    """Classes with fewer than `RARE_ROWS` rows."""
    absent: dict[str, int]
    """Split -> classes of train that no row of it has."""
    near: list[tuple[str, str]]
    """Names that a reader would take for one."""


class Proposed(TypedDict):
    """What the data says of a setting."""

    what: str
    settings: str
    """Where it is set; of some kinds of work each has its own."""
    value: int | str | list[int]
    reason: str


class Distributions(TypedDict):
    """The whole of the file."""

    views: dict[str, dict[str, ViewSpread]]
    """View -> split."""
    labels: dict[str, LabelSpread]
    """By part."""
    values: dict[str, dict[str, ValueSpread]]
    """Part -> split."""
    constant_channels: NotRequired[list[int]]
    """Numbers of the channels of features that never change in train, from 0."""
    proposals: list[Proposed]
