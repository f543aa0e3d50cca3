"""The training cache: every distinct medium decoded once, every distinct text tokenised once.

A cache folder holds, of what the dataset has,
  images.bin      uint8 [images, channels, height, width], row-major, memory-mapped: as planes,
                  which are what models take
  audio.bin       float32 samples of all clips one after another, mono at `sample_rate`
  *.shard         images or clips that would be too large so, encoded: see `media_shards`
  features.bin    float32 [steps of all arrays, channels]
  *.offsets.bin   int64 [clips + 1] in samples, or [arrays + 1] in steps: where each one begins
  texts.arrow     text, ids: each distinct text beside its token ids, uncut and without bos or eos
  turns.arrow     each distinct conversation with its ids: see `turns_file`
  <split>.arrow   sample_id, numbers into the above by column, part, label (number of the class
                  within its part), value; weight, turns, and the numbers of the images that these
                  show in order, where the dataset has them
  tokenizer.json  what made the ids
  lost_labels.csv rows left out because truncation would cut away their whole answer
  cache.json      counts, sizes, classes
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from plumbline.data.columns import CONTENT, MEDIA, SPLITS, TEXTS
from plumbline.data.csv_writer import CsvWriter
from plumbline.data.disk_index import DiskIndex
from plumbline.data.parquet import column_names, count_rows, iter_table
from plumbline.data.turns import IMAGE_MARK, parse_turns
from plumbline.engines.base import Engine
from plumbline.engines.local import LocalEngine
from plumbline.errors import DataError
from plumbline.files import dump_json
from plumbline.tokenization.cache_spread import CacheSpread, SpreadOfCache
from plumbline.tokenization.chat_checkpoint import read_chat_format
from plumbline.tokenization.chat_template import CHAT_TOKENS, OWN_TEMPLATE
from plumbline.tokenization.computing import (
    Chunk,
    Computing,
    Numbered,
    compute,
    cut_media,
    cut_texts,
)
from plumbline.tokenization.facts import CacheFacts, ChatFormat, Ids, WrittenFacts
from plumbline.tokenization.media import NumberedMedia, open_media
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.stores import Decoded, Stores
from plumbline.tokenization.tokenizer import (
    FILE_NAME,
    load_tokenizer,
    special_ids,
    train_tokenizer,
)
from plumbline.tokenization.turns_file import TurnsFile
from plumbline.tracking.progress import tracked
from plumbline.weights.checkpoint import open_checkpoint
from plumbline.weights.settings import NOWHERE

if TYPE_CHECKING:
    from plumbline.shapes.described import Shapes

TEXT_SCHEMA = pa.schema([("text", pa.string()), ("ids", pa.list_(pa.int32()))])
NUMBERED = (*MEDIA, *TEXTS)
SAMPLE_SCHEMA = pa.schema(
    [("sample_id", pa.string())]
    + [(name, pa.int32()) for name in (*NUMBERED, "part", "label")]
    + [("value", pa.float64())]
)
OPTIONAL = {"weight": pa.float64(), "turns": pa.int32(), "images": pa.list_(pa.int32())}
"""Columns of samples, behind the others, where the dataset has them."""
LOST_SCHEMA = pa.schema(
    [("split", pa.string()), ("sample_id", pa.string()), ("tokens", pa.int32())]
)


def _read_split(clean: Path, split: str, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    file = clean / f"{split}.parquet"
    if file.is_file():
        there = column_names(file)
        yield from iter_table(file, [name for name in wanted if name in there])


def _count_rows(clean: Path, split: str) -> int:
    file = clean / f"{split}.parquet"
    return count_rows(file) if file.is_file() else 0


def _training_texts(clean: Path) -> Iterator[str]:
    for batch in _read_split(clean, "train", (*TEXTS, "turns")):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for text in column.drop_null().to_pylist():
                yield from _said(text) if name == "turns" else (text,)


def _said(turns: str) -> list[str]:
    said = parse_turns(turns)
    return [t["content"].replace(IMAGE_MARK, "") if t.get("images") else t["content"] for t in said]


def build_cache(
    clean: Path,
    out: Path,
    config: TokenizeConfig,
    shapes: "Shapes",
    weights: Path = Path(NOWHERE),
    engine: Engine | None = None,
) -> CacheSpread:
    """Write the cache of a cleaned dataset into the empty folder `out`, streaming.

    Args:
        clean: folder with `<split>.parquet`.
        out: empty folder; gets the files named at the top of this module.
        config: tokenizer, image size and channels, sample rate.
        shapes: content of shapes.json: sizes of the media, classes of the labels.
        weights: folder with the records of tokenizers of others.
        engine: where media are decoded and texts are encoded; None: on this machine.

    Returns:
        how what it holds is distributed, for people; no file of the cache depends on it.

    Raises:
        DataError: there is no cleaned dataset, images differ in size and no `image_size` is set, a
            medium cannot be decoded, or a text column holds no text to train a tokenizer on.
    """
    if not any((clean / f"{split}.parquet").is_file() for split in SPLITS):
        raise DataError(f"{clean}: no cleaned dataset; run dvc repro validate@{clean.name}")
    texts = shapes.get("texts", {})
    if config.chat_template is not None and "turns" not in texts:
        raise DataError(f"{clean}: tokenize.chat_template is set, but there are no turns to write")
    chosen = config.tokenizer.pretrained
    folder = open_checkpoint(weights, chosen).tokenizer if chosen and texts else None
    chat = _chat_format(folder, config) if "turns" in texts else None
    tokenizer = _tokenizer(clean, folder, config, chat) if texts else None
    if tokenizer is not None:
        tokenizer.save(str(out / FILE_NAME))
    writer = _CacheWriter(out, tokenizer, config, shapes, chat)
    engine = engine or LocalEngine()
    rows = {split: writer.write_split(clean, split, engine) for split in SPLITS}
    spread = writer.spread.describe()
    facts = writer.close()
    description: CacheFacts = {
        "rows": {split: count for split, count in rows.items() if count},
        "vocab_size": tokenizer.get_vocab_size() if tokenizer else 0,
        "special_ids": _ids(tokenizer, chat) if tokenizer else None,
        "max_tokens": config.max_tokens,
        "labels": shapes.get("labels", {}),
        "values": shapes.get("values", {}),
        **facts,
    }
    (out / "cache.json").write_text(dump_json(description), encoding="utf-8")
    return spread


def _chat_format(folder: Path | None, config: TokenizeConfig) -> ChatFormat:
    if folder is not None:
        own = folder if folder.is_dir() else folder.parent
        return read_chat_format(own, config.chat_template)
    return {"template": OWN_TEMPLATE, "tokens": {}}


def _tokenizer(
    clean: Path, folder: Path | None, config: TokenizeConfig, chat: ChatFormat | None
) -> Tokenizer:
    if folder is not None:
        return load_tokenizer(folder)
    more = CHAT_TOKENS if chat else ()
    return train_tokenizer(_training_texts(clean), config.tokenizer, more)


def _ids(tokenizer: Tokenizer, chat: ChatFormat | None) -> Ids:
    ids = special_ids(tokenizer, chat["tokens"] if chat else None)
    return {"pad": ids.pad, "bos": ids.bos, "eos": ids.eos}


def _schema(batch: pa.RecordBatch) -> pa.Schema:
    """Of the cached rows of clean ones."""
    there = [pa.field(*column) for column in OPTIONAL.items() if column[0] in batch.schema.names]
    return pa.schema([*SAMPLE_SCHEMA, *there])


class _CacheWriter:
    """Streams rows into the cache files; distinct values are numbered as they are met."""

    def __init__(
        self,
        out: Path,
        tokenizer: Tokenizer | None,
        config: TokenizeConfig,
        shapes: "Shapes",
        chat: ChatFormat | None,
    ) -> None:
        self._out, self._limit = out, config.max_tokens
        self._labels = {
            part: {name: number for number, name in enumerate(labels["classes"])}
            for part, labels in shapes.get("labels", {}).items()
        }
        self._parts = list(dict.fromkeys([*self._labels, *shapes.get("values", {})])) or [""]
        self._files = ExitStack()
        stores = Stores(
            *(out, self._files, config.decoded_bytes, config.shard_mb * 2**20),
            shards_at=config.shards_at,
        )
        media = open_media(
            *(stores, config.image_size, config.image_resize, config.image_mode),
            config.sample_rate,
            shapes,
        )
        self._indexes = {}
        for name in (*media, "texts"):
            path = out / f".{name}.sqlite"
            self._indexes[name] = DiskIndex(path)
            self._files.callback(path.unlink)
            self._files.callback(self._indexes[name].close)
        self._media = {
            name: NumberedMedia(self._indexes[name], file) for name, file in media.items()
        }
        decoders = {name: file.decode for name, file in media.items()}
        self._computing = Computing(decoders, tokenizer)
        self._texts = self._files.enter_context(
            pa.ipc.new_file(str(out / "texts.arrow"), TEXT_SCHEMA)
        )
        self.spread = SpreadOfCache(out, self._files)
        self._turns: TurnsFile | None = None
        if chat and tokenizer:
            self._turns = TurnsFile(out, tokenizer, chat, self.spread.turns, self._files)
        self._longest = 0
        self._lost_file: CsvWriter | None = None
        self._lost: Counter[str] = Counter()
        self._cut: Counter[str] = Counter()

    def write_split(self, clean: Path, split: str, engine: Engine) -> int:
        """Write `<split>.arrow`; returns its number of rows, 0 where the split does not exist."""
        rows, sink = 0, None
        batches = self._numbered(clean, split)
        for numbered in compute(batches, self._computing, engine, self._write_media):
            if sink is None:
                sink = pa.ipc.new_file(str(self._out / f"{split}.arrow"), numbered.rows.schema)
            self._write_texts(numbered)
            self.spread.add(split, numbered.rows, numbered.constant)  # also of those left out
            kept = self._leave_out_lost(numbered.rows, split)
            sink.write_batch(kept)
            rows += kept.num_rows
        if sink is not None:
            sink.close()
        return rows

    def _numbered(self, clean: Path, split: str) -> Iterator[tuple[Numbered, list[Chunk]]]:
        batches = _read_split(clean, split, ("sample_id", "part", *CONTENT))
        return map(
            self._number_batch,
            tracked(batches, f"caching {split}", _count_rows(clean, split), "rows", len),
        )

    def _number_batch(self, batch: pa.RecordBatch) -> tuple[Numbered, list[Chunk]]:
        """Number what a batch holds; the chunks are what is new of it, in the order of numbers."""
        present = batch.schema.names
        columns: dict[str, pa.Array] = {"sample_id": batch.column("sample_id")}
        for name in [name for name in self._media if name in present]:
            columns[name] = self._media[name].number(batch.column(name))
        if "images" in present and "image" in self._media:
            columns["images"] = self._media["image"].number_lists(batch.column("images"))
        numbers, texts = self._number_texts(batch, [name for name in TEXTS if name in present])
        columns |= numbers
        if self._turns and "turns" in present:
            columns["turns"] = self._turns.number(columns["sample_id"], batch.column("turns"))
        columns["part"], columns["label"] = self._number_labels(batch)
        schema = _schema(batch)
        for name in [name for name in ("value", "weight") if name in present]:
            values = [None if v is None else float(v) for v in batch.column(name).to_pylist()]
            columns[name] = pa.array(values, pa.float64())
        empty = {
            field.name: pa.nulls(batch.num_rows, field.type)
            for field in schema
            if field.name not in columns
        }
        rows = pa.RecordBatch.from_pydict({**columns, **empty}, schema)
        chunks = [
            chunk
            for name, one in self._media.items()
            for chunk in cut_media(name, one.take_met(), one.decoded_bytes)
        ]
        # A batch that brings nothing new still has its turn.
        chunks = [*chunks, *cut_texts(texts)] or [Chunk()]
        return Numbered(rows, len(chunks), {name: [] for name in self._media}), chunks

    def _number_texts(
        self, batch: pa.RecordBatch, names: Sequence[str]
    ) -> tuple[dict[str, pa.Array], list[str]]:
        """Number texts in the order of rows, then columns, which no cut into batches changes.

        Returns:
            the numbers by column, and the texts that no row before has.
        """
        encoded = [batch.column(name).dictionary_encode() for name in names]
        met = []
        for place, column in enumerate(encoded):
            # The values of a dictionary that has just been made stand in the order of their rows.
            used, rows = np.unique(column.indices.fill_null(-1).to_numpy(), return_index=True)
            rows = rows[used >= 0].tolist()
            texts = column.dictionary.to_pylist()
            met += [(row, place, text) for row, text in zip(rows, texts, strict=True)]
        numbers: dict[str, int] = {}
        new_texts = []
        for _, _, text in sorted(met):
            if text not in numbers:
                numbers[text], new = self._indexes["texts"].number(text.encode())
                new_texts += [text] if new else []
        numbered = {
            name: pa.array(
                [numbers[text] for text in column.dictionary.to_pylist()], pa.int32()
            ).take(column.indices)
            for name, column in zip(names, encoded, strict=True)
        }
        return numbered, new_texts

    def _write_media(self, chunk: Chunk, decoded: Sequence[Decoded]) -> list[int]:
        return self._media[chunk.column].write(chunk, decoded)

    def _write_texts(self, numbered: Numbered) -> None:
        if not numbered.texts:
            return
        lengths = [len(ids) for ids in numbered.ids]
        self._longest = max(self._longest, *lengths)
        self.spread.texts.append(lengths)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        ids = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(numbered.ids)))
        texts = pa.array(numbered.texts, pa.string())
        self._texts.write_batch(pa.RecordBatch.from_arrays([texts, ids], schema=TEXT_SCHEMA))

    def _number_labels(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        rows, names = batch.num_rows, batch.schema.names
        parts = batch.column("part").to_pylist() if "part" in names else [""] * rows
        parts = [part or "" for part in parts]
        numbers = {part: number for number, part in enumerate(self._parts)}
        part_numbers = pa.array([numbers.get(part) for part in parts], pa.int32())
        if "label" not in names:
            return part_numbers, pa.nulls(rows, pa.int32())
        labels = [
            None if label is None else self._labels[part][label]
            for part, label in zip(parts, batch.column("label").to_pylist(), strict=True)
        ]
        return part_numbers, pa.array(labels, pa.int32())

    def _leave_out_lost(self, batch: pa.RecordBatch, split: str) -> pa.RecordBatch:
        """Take out the rows whose question alone fills `max_tokens`: no label would be left."""
        if self._limit is None:
            return batch
        keep, entries, lengths = [], [], self.spread.texts
        columns = (batch.column(n).to_pylist() for n in ("sample_id", "question", "answer"))
        for sample_id, question, answer in zip(*columns, strict=True):
            lost = False
            if question is not None and answer is not None:
                asked = lengths.one(question) + 1
                lost = asked >= self._limit
                self._cut[split] += not lost and asked + lengths.one(answer) + 1 > self._limit
                if lost:
                    entries.append({"split": split, "sample_id": sample_id, "tokens": asked})
            keep.append(not lost)
        self._note_lost(split, entries)
        return batch.filter(pa.array(keep))

    def _note_lost(self, split: str, entries: list[dict[str, object]]) -> None:
        if not entries:
            return
        if self._lost_file is None:
            path = self._out / "lost_labels.csv"
            self._lost_file = CsvWriter(path, LOST_SCHEMA)
            self._files.callback(self._lost_file.close)
        self._lost_file.write(pa.Table.from_pylist(entries, LOST_SCHEMA))
        self._lost[split] += len(entries)

    def close(self) -> WrittenFacts:
        """Finish the files and return the facts about them."""
        facts: WrittenFacts = {
            "parts": self._parts,
            "texts": len(self._indexes["texts"]),
            "longest_text_tokens": self._longest,
            "lost_labels": dict(self._lost),
            "cut_answers": dict(self._cut),
        }
        for medium in self._media.values():
            facts = {**facts, **medium.facts()}
        if self._turns:
            facts["chat"] = self._turns.facts()
        self._files.close()
        return facts
