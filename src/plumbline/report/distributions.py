"""How the data of a training is distributed, as rows of a table, and what that says of settings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from plumbline.report.figures import label, percent
from plumbline.shapes.distributed import ColumnSpread, Distributions, Proposed
from plumbline.shapes.spread import Spread
from plumbline.tokenization.cache_spread import CacheSpread

SHOWN = 40
"""Rows of the table."""
_MEASURES = (
    ("width", "width", "pixels"),
    ("height", "height", "pixels"),
    ("aspect", "width by height", ""),
    ("images_a_row", "images in a row", ""),
    ("seconds", "length", "s"),
    ("steps", "steps", ""),
    ("chars", "length", "characters"),
    ("turns", "turns", ""),
)
_OF_SIZE = ("width", "height", "aspect")


@dataclass(frozen=True)
class Measured:
    """A row: of training, with the medians of the other splits."""

    what: str
    unit: str
    of: str
    """The view or the part; empty where there is one."""
    spread: Spread
    note: str = ""
    others: Mapping[str, float] = field(default_factory=dict)
    """Split -> its median."""

    @property
    def words(self) -> str:
        """What stands below its name."""
        return ", ".join(filter(None, (self.unit, self.note, self.of)))

    @property
    def bars(self) -> list[float]:
        """Heights of the histogram, the greatest 1."""
        most = max(self.spread["histogram"])
        return [count / most for count in self.spread["histogram"]]


@dataclass(frozen=True)
class DataSpread:
    """What the page shows of both records."""

    rows: list[Measured]
    more: int
    """Rows that are not shown."""
    modes: dict[str, int]
    """Format and mode of images -> how many there are in training."""
    imbalance: dict[str, float]
    """Part -> rows of the most frequent class for each of the rarest."""
    proposals: list[Proposed]


def data_spread(clean: Distributions, cache: CacheSpread) -> DataSpread:
    """Choose what is shown of what `detect_shapes` and `tokenize_text` wrote."""
    rows = [*_of_columns(clean), *_of_tokens(cache), *_of_values(clean)]
    modes: dict[str, int] = {}
    for by_split in clean["views"].values():
        for column in by_split.get("train", {"columns": {}})["columns"].values():
            for mode, count in column.get("modes", {}).items():
                modes[mode] = max(count, modes.get(mode, 0))  # views share their images
    return DataSpread(
        rows=rows[:SHOWN],
        more=max(0, len(rows) - SHOWN),
        modes=modes,
        imbalance={part: labels["imbalance"] for part, labels in clean["labels"].items()},
        proposals=[*clean["proposals"], *cache["proposals"]],
    )


def _of_columns(clean: Distributions) -> Iterator[Measured]:
    shown: set[str] = set()
    for view, by_split in clean["views"].items():
        columns = by_split["train"]["columns"] if "train" in by_split else {}
        for name, column in columns.items():
            for measure, what, unit in _MEASURES:
                spread = _get(column, measure)
                if spread is None or _is_one_size(column, measure):
                    continue
                # Another view may have the same rows.
                if (same := repr((name, measure, spread))) in shown:
                    continue
                shown.add(same)
                others = {
                    split: found["p50"]
                    for split, of_split in by_split.items()
                    if split != "train"
                    and (found := _get(of_split["columns"].get(name, {}), measure))
                }
                of = view if len(clean["views"]) > 1 else ""
                yield Measured(f"{label(name)}: {what}", unit, of, spread, "", others)


def _of_tokens(cache: CacheSpread) -> Iterator[Measured]:
    for what, spread in cache["tokens"].get("train", {}).items():
        others = {
            split: by_name[what]["p50"]
            for split, by_name in cache["tokens"].items()
            if split != "train" and what in by_name
        }
        yield Measured(f"{label(what)}: length", "tokens", "", spread, "", others)


def _of_values(clean: Distributions) -> Iterator[Measured]:
    for part, by_split in clean["values"].items():
        if values := by_split.get("train"):
            zeros, out = values["zeros"], values["outliers"]
            said = [
                f"{percent(count, values['count'])} {words}"
                for count, words in ((zeros, "zero"), (out, "far out"))
                if count
            ]
            others = {name: of["p50"] for name, of in by_split.items() if name != "train"}
            yield Measured("Value", "", part, values, ", ".join(said), others)


def _get(column: ColumnSpread, measure: str) -> Spread | None:
    spread: Spread | None = column.get(measure)  # type: ignore[assignment]
    return spread


def _is_one_size(column: ColumnSpread, measure: str) -> bool:
    """Whether all images have one size, which stands among the counts."""
    sides = (column["width"], column["height"]) if measure in _OF_SIZE else ()
    return bool(sides) and all(side["min"] == side["max"] for side in sides)
