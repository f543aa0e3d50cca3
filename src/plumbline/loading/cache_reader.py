"""Reading a training cache (`plumbline.tokenization.cache` says what is in it), memory-mapped."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from plumbline.data.media_shards import ShardReader
from plumbline.data.resizing import Resize
from plumbline.errors import DataError
from plumbline.files import read_digests, read_json, verify_digests
from plumbline.loading.digest_check import DigestCheck, large_files
from plumbline.loading.media_reader import Clips, EncodedImages, Images, open_images
from plumbline.loading.order import SampleShards

if TYPE_CHECKING:
    # Only there, so that a field more of cache.json reruns no training of what does not read it.
    from plumbline.tokenization.facts import CacheFacts

Int32 = NDArray[np.int32]
Floats = NDArray[np.float32]

_NO_NUMBERS = ("sample_id", "value", "weight", "images")
"""Columns of a split that are not one number into the cache."""
_PREFIXES = {"image": "images", "audio": "audio"}
"""Column of media -> what the names of their files begin with."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MediaRows:
    """What a sample says about one image, clip or feature array, as numbers into the cache."""

    number: int
    """Of the medium."""
    captions: Int32
    """[captions] text numbers; one that is there more often is drawn more often."""
    questions: Int32
    """[questions, 2] text numbers of question and answer, each as often as it is there."""


class TrainingCache:
    """A cache folder, opened and checked: media, texts with their ids, rows by split."""

    def __init__(self, folder: Path, *, confirm_later: bool = False) -> None:
        """Open a cache.

        Args:
            folder: of the cache.
            confirm_later: whether large files are checked in a thread, for which `confirm` waits.

        Raises:
            CheckpointError: a file is missing or its bytes have changed.
        """
        self.folder = folder
        later = large_files(folder, read_digests(folder)) if confirm_later else []
        self.digests = verify_digests(folder, names=read_digests(folder).keys() - later)
        self._check = DigestCheck(folder, later) if later else None
        self.facts: CacheFacts = read_json(folder / "cache.json")
        table = _open_arrow(folder / "texts.arrow")
        self._texts: pa.ChunkedArray = table["text"].combine_chunks()
        ids = table["ids"].combine_chunks()
        # One chunk of lists: the ids of all texts end to end, of which `ids` gives views.
        ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
        self._offsets: Int32 = ids.offsets.to_numpy()  # [texts + 1] into the ids of all texts
        self._ids: Int32 = ids.values.to_numpy()

    def confirm(self) -> None:
        """Wait until all files are known to be as they were written.

        Raises:
            DamagedInputError: one is not.
        """
        if self._check is not None:
            self._check.confirm()

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have rows."""
        return sorted(self.facts["rows"])

    @cached_property
    def images(self) -> Images:
        """[images, height, width, channels] uint8, of 3 channels, or 1.

        Memory-mapped, or decoded as they are read.
        """
        images = open_images(self.folder, self.facts)
        if images is None:
            raise DataError(f"{self.folder}: this dataset has no images")
        return images

    @property
    def image_resize(self) -> Resize | None:
        """How images were made what a model takes; None: they are as they were."""
        made = self.facts.get("image_resize")
        return None if made is None else Resize.model_validate(made)

    def media_files(self, column: str) -> list[str]:
        """Files that decide what the media of a column, `image` or `audio`, are."""
        shards = self._shards_of(column)
        # The digests of shards that lie in an object store stand there.
        facts = ["cache.json"] if shards is not None and shards.bring is not None else []
        prefix = f"{_PREFIXES[column]}."
        return facts + [name for name in self.digests if name.startswith(prefix)]

    def shards(self, column: str, numbers: NDArray[np.integer]) -> SampleShards | None:
        """Where some media are read from; None: they lie in no shards.

        Args:
            column: `image` or `audio`; of others there are none.
            numbers: [media] of the media.
        """
        shards = self._shards_of(column)
        return None if shards is None else SampleShards(shards.shards_of(numbers), shards.bring)

    def _shards_of(self, column: str) -> ShardReader | None:
        if column == "image" and isinstance(self.images, EncodedImages):
            return self.images.shards
        return self.clips.shards if column == "audio" else None

    @cached_property
    def clips(self) -> Clips:
        """The clips, memory-mapped, or decoded as they are read."""
        if "audio" not in self.facts:
            raise DataError(f"{self.folder}: this dataset has no audio")
        return Clips(self.folder, self.facts)

    def audio(self, number: int) -> Floats:
        """The samples of a clip: float32 [samples], mono, at `facts["audio"]["sample_rate"]` Hz."""
        return self.clips[number]

    @cached_property
    def _features(self) -> tuple[Floats, NDArray[np.int64]]:
        """[steps of all, channels], rows end to end; and [arrays + 1], where each begins."""
        if "features" not in self.facts:
            raise DataError(f"{self.folder}: this dataset has no features")
        channels = self.facts["features"]["channels"]
        values = np.memmap(self.folder / "features.bin", np.float32, "r").reshape(-1, channels)
        return values, np.fromfile(self.folder / "features.offsets.bin", np.int64)

    def features(self, number: int) -> Floats:
        """A feature array: float32 [steps, channels]."""
        values, offsets = self._features
        return values[offsets[number] : offsets[number + 1]]

    def lengths(self, name: str) -> NDArray[np.int64]:
        """Length of every clip in samples (`audio`) or array in steps (`features`): [media]."""
        return np.diff(self.clips.offsets if name == "audio" else self._features[1])

    def text_lengths(self) -> Int32:
        """Token count of every text: [texts]."""
        return np.diff(self._offsets)

    def say_cut(
        self, split: str, lengths: NDArray[np.integer], limit: int, what: str, setting: str
    ) -> None:
        """Log how many of a split's values are cut, if any.

        Args:
            split: its name.
            lengths: [values], each as often as it is there.
            limit: the longest that is not cut.
            what: the values, in the plural.
            setting: the key of the limit.
        """
        if cut := int(np.count_nonzero(lengths > limit)):
            logger.warning(
                "%s: %d of %d %s of split %s are longer than %s = %d and are cut",
                *(self.folder.name, cut, lengths.size, what, split, setting, limit),
            )

    def text(self, number: int) -> str:
        """The raw text that has this number."""
        text: str = self._texts[number].as_py()
        return text

    def ids(self, number: int) -> Int32:
        """Token ids of a text: [tokens], uncut, without bos and eos."""
        return self._ids[self._offsets[number] : self._offsets[number + 1]]

    def rows(self, split: str) -> dict[str, Int32]:
        """Numbers [rows] of a split by column (media, texts, part, label); -1 where there is none.

        Raises:
            DataError: there is no such split.
        """
        table = self._split(split)
        table = table.drop_columns([n for n in _NO_NUMBERS if n in table.column_names])
        # No number is negative, and numpy's integers have no other way to say that there is none.
        filled = {name: table[name].fill_null(-1) for name in table.column_names}
        return {name: column.to_numpy().astype(np.int32) for name, column in filled.items()}

    def shown(self, split: str) -> tuple[Int32, NDArray[np.int64]]:
        """Numbers of the images that turns show.

        Returns:
            [images of all rows], those of a row in the order of their places, row by row; and
            [rows + 1], where each row's begin.
        """
        table = self._split(split)
        if "images" not in table.column_names:
            return np.zeros(0, np.int32), np.zeros(len(table) + 1, np.int64)
        lists = table["images"].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        flat = pc.list_flatten(lists).to_numpy()
        return flat, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))

    def values(self, split: str) -> NDArray[np.float64]:
        """The numbers to predict: [rows]; NaN where a row has none."""
        return np.array(self._split(split)["value"].fill_null(np.nan).to_numpy())

    def weights(self, split: str) -> NDArray[np.float64] | None:
        """How much the values weigh: [rows], 1 where a row does not say; None: none says."""
        table = self._split(split)
        if "weight" not in table.column_names:
            return None
        return np.array(table["weight"].fill_null(1.0).to_numpy())

    def sample_ids(self, split: str) -> pa.ChunkedArray:
        """The sample ids of a split, in row order."""
        return self._split(split)["sample_id"]

    def _split(self, split: str) -> pa.Table:
        if split not in self.facts["rows"]:
            raise DataError(f"{self.folder}: no split {split!r}; there is {', '.join(self.splits)}")
        return _open_arrow(self.folder / f"{split}.arrow")

    def classes(self) -> dict[str, list[str]]:
        """Part -> its class names, in the order of the label numbers."""
        return {part: labels["classes"] for part, labels in self.facts["labels"].items()}

    def by_medium(self, split: str, column: str) -> list[MediaRows]:
        """Group the rows of a split by image or clip, in the order in which these first appear.

        A medium whose rows are all there m times or more is there m times: so many groups share
        its rows, each with one of every distinct row at least.
        """
        rows = self.rows(split)
        groups = []
        for part in _split_repeats(group_rows(rows[column]), self._copies(split, column)):
            captions = rows["caption"][part]
            # [rows of the group, 2]; a question without an answer is no pair, nor the reverse.
            pairs = np.stack([rows["question"][part], rows["answer"][part]], axis=1)
            groups.append(
                MediaRows(
                    number=int(rows[column][part[0]]),
                    captions=captions[captions >= 0],
                    questions=pairs[(pairs >= 0).all(axis=1)],
                )
            )
        return groups

    def _copies(self, split: str, column: str) -> NDArray[np.int64]:
        """Which copy of the same row each row is, modulo the copies that its medium has: [rows].

        A medium has as many copies as the least frequent of its distinct rows.
        """
        table = self._split(split)
        # Images of turns are lists, which cannot be grouped by; their rows have no medium.
        table = table.drop_columns([n for n in ("sample_id", "images") if n in table.column_names])
        same = table.append_column("at", pa.array(np.arange(len(table))))
        # Without threads, so that the copies of a row keep their order.
        kinds = same.group_by(table.column_names, use_threads=False).aggregate([("at", "list")])
        lists = kinds["at_list"].combine_chunks()
        counts = np.diff(lists.offsets.to_numpy())
        if not len(counts) or counts.max() == 1:
            return np.zeros(len(table), np.int64)
        media = kinds[column].fill_null(-1).to_numpy()
        least = np.full(media.max() + 2, len(table))
        np.minimum.at(least, media, counts)  # those without a medium share the last place
        at = lists.values.to_numpy()
        # [rows], in the order of `at`: where the copies of this row begin.
        first = np.repeat(np.cumsum(counts) - counts, counts)
        copies = np.zeros(len(table), np.int64)
        copies[at] = (np.arange(len(at)) - first) % np.repeat(least[media], counts)
        return copies


def _split_repeats(
    groups: list[NDArray[np.int64]], copies: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Cut each group of row positions into those of each copy."""
    for group in groups:
        of_group = copies[group]
        for copy in range(int(of_group.max()) + 1):
            yield group[of_group == copy]


def group_samples(inputs: Int32, parts: Int32) -> NDArray[np.int64]:
    """Which sample each row belongs to: [rows], -1 where the row has no input.

    The k-th row of every part of one input makes the k-th sample of that input: so parts share a
    sample, and a row that is there again is another one. Samples are in the order of their inputs'
    numbers.

    Args:
        inputs: [rows] numbers of the inputs, -1 where there is none.
        parts: [rows] numbers of the parts.
    """
    order = np.lexsort((parts, inputs))  # stable: rows of one part keep their order
    order = order[np.searchsorted(inputs[order], 0) :]
    samples = np.full(len(inputs), -1)
    if not len(order):
        return samples
    of_input, of_part = inputs[order], parts[order]
    # [rows with an input]: whether a row is the first of its part of its input.
    new = (np.diff(of_input, prepend=-1) != 0) | (np.diff(of_part, prepend=-1) != 0)
    starts = np.flatnonzero(new)
    nth = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    _, samples[order] = np.unique(np.stack([of_input, nth], axis=1), axis=0, return_inverse=True)
    return samples


def group_rows(numbers: Int32) -> list[NDArray[np.int64]]:
    """Positions of the rows that share a number, from numbers [rows]; those of -1 are left out."""
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers[order], 0) :]
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return np.split(order, starts[1:]) if len(order) else []


def _open_arrow(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
