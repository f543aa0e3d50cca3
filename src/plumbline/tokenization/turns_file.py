"""turns.arrow of a training cache: each distinct conversation beside its token ids.

turns    text, as `plumbline.data.turns` writes it
ids      all that the template makes of it, uncut, with `IMAGE_ID` in the place of each image
answers  [start, stop) in ids of each of the assistant's turns, end to end
"""

from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer

from plumbline.data.disk_index import DiskIndex
from plumbline.data.turns import parse_turns
from plumbline.errors import DataError
from plumbline.tokenization.cache_spread import Lengths
from plumbline.tokenization.chat_template import ChatError, ChatTemplate
from plumbline.tokenization.chat_tokens import ChatEncoder
from plumbline.tokenization.facts import ChatFacts, ChatFormat

TURNS = "turns.arrow"
TURNS_SCHEMA = pa.schema(
    [
        ("turns", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("answers", pa.list_(pa.int32())),
    ]
)
CHECKED = 100
"""So many conversations, the first ones, are decoded again."""
_BATCH = 256


class TurnsFile:
    """Writes conversations in the order in which they are met."""

    def __init__(
        self,
        out: Path,
        tokenizer: Tokenizer,
        chat: ChatFormat,
        lengths: Lengths,
        files: ExitStack,
    ) -> None:
        """Open the file in the folder `out`; `lengths` gets the tokens of each conversation.

        Raises:
            DataError: the template cannot be used.
        """
        self._chat = chat
        try:
            template = ChatTemplate(chat["template"], chat["tokens"], chat.get("image"))
            self._encoder = ChatEncoder(template, tokenizer)
        except ChatError as error:
            raise DataError(str(error)) from None
        index = out / ".turns.sqlite"
        self._index = DiskIndex(index)
        files.callback(index.unlink)
        files.callback(self._index.close)
        self._sink = files.enter_context(pa.ipc.new_file(str(out / TURNS), TURNS_SCHEMA))
        self._lengths, self._longest = lengths, 0

    def number(self, sample_ids: pa.Array, column: pa.Array) -> pa.Array:
        """Number the conversations of a batch, and write those that are new.

        Raises:
            DataError: the template cannot write one, or what would be learnt is not what the
                assistant says; names the row.
        """
        numbers: list[int | None] = []
        new: list[dict[str, object]] = []
        for sample_id, text in zip(sample_ids.to_pylist(), column.to_pylist(), strict=True):
            if text is None:
                numbers.append(None)
                continue
            number, is_new = self._index.number(text.encode())
            numbers.append(number)
            if is_new:
                new.append(self._encode(sample_id, text, check=number < CHECKED))
            if len(new) == _BATCH:
                self._write(new)
                new = []
        self._write(new)
        return pa.array(numbers, pa.int32())

    def _encode(self, sample_id: str, text: str, *, check: bool) -> dict[str, object]:
        turns = parse_turns(text)
        try:
            encoded = self._encoder.encode(turns)
        except ChatError as error:
            raise DataError(f"row {sample_id}: {error}") from None
        if check and (wrong := self._encoder.misread(turns, encoded)):
            raise DataError(
                f"row {sample_id}: the assistant says {wrong[0][:80]!r}, and the tokens to learn "
                f"say {wrong[1][:80]!r}: this tokenizer and this chat template do not go together"
            )
        self._longest = max(self._longest, len(encoded.ids))
        self._lengths.append([len(encoded.ids)])
        answers = [place for answer in encoded.answers for place in answer]
        return {"turns": text, "ids": encoded.ids, "answers": answers}

    def _write(self, rows: list[dict[str, object]]) -> None:
        if rows:
            self._sink.write_batch(pa.RecordBatch.from_pylist(rows, TURNS_SCHEMA))

    def facts(self) -> ChatFacts:
        """What a reader must know, for cache.json."""
        return {
            **self._chat,
            "end": self._encoder.end,
            "conversations": len(self._index),
            "longest_tokens": self._longest,
        }
