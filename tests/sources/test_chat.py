"""Chat data in its dialects becomes turns; what cannot be read is filed with its reason."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from plumbline.data.turns import Turn, dump_turns
from plumbline.sources.chat import DIALECTS, Dialect
from plumbline.sources.jsonl import JsonlSource
from plumbline.sources.parquet import ParquetSource
from plumbline.validation.faults import Fault
from plumbline.validation.text_check import CleanText
from plumbline.validation.turns_check import clean_turns

Record = dict[str, Any]

TALK: list[Turn] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 plus one?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And one more?"},
    {"role": "assistant", "content": "3"},
]
IN_DIALECTS: dict[str, Record] = {
    "messages": {
        "messages": [
            {"role": "developer", "content": "Be brief.", "name": None},
            {"role": "user", "content": "What is 1 plus one?"},
            {"role": "assistant", "content": "2", "tool_calls": []},
            {"role": "user", "content": "And one more?"},
            {"role": "assistant", "content": "3", "weight": 1},
        ]
    },
    "alpaca": {
        "system": "Be brief.",
        "history": [["What is 1 plus one?", "2"]],
        "instruction": "And one more?",
        "input": "",
        "output": "3",
    },
    "sharegpt": {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "What is 1 plus one?"},
            {"from": "gpt", "value": "2"},
            {"from": "human", "value": "And one more?"},
            {"from": "gpt", "value": "3"},
        ],
    },
}


def read_jsonl(folder: Path, dialect: str, *records: Record, **chat: Any) -> list[bytes | None]:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(json.dumps(record) for record in records)
    (folder / "chat.jsonl").write_text(lines, encoding="utf-8")
    source = JsonlSource.model_validate(
        {"source": "jsonl", "chat": {"dialect": dialect, **chat}}, strict=True
    )
    return cells(source.read(folder))


def read_parquet(folder: Path, dialect: str, *records: Record) -> list[bytes | None]:
    numbered = [{"id": str(number), **record} for number, record in enumerate(records)]
    pq.write_table(pa.Table.from_pylist(numbered), folder / "chat.parquet")
    source = ParquetSource.model_validate(
        {"source": "parquet", "chat": {"dialect": dialect}, "columns": {"sample_id": "id"}}
    )
    return cells(source.read(folder))


def cells(batches: Any) -> list[bytes | None]:
    return [
        cell for batch in batches for cell in batch.column("turns").view(pa.binary()).to_pylist()
    ]


def judge(cell: bytes | None, max_chars: int = 1000) -> str | Fault:
    assert cell is not None
    found = clean_turns(cell, max_chars)
    return found if isinstance(found, Fault) else found.text


@pytest.mark.parametrize("read", [read_jsonl, read_parquet])
@pytest.mark.parametrize("dialect", IN_DIALECTS)
def test_every_dialect_becomes_the_same_turns(tmp_path: Path, dialect: str, read: Any) -> None:
    (cell,) = read(tmp_path, dialect, IN_DIALECTS[dialect])
    assert cell == dump_turns(TALK).encode()
    assert judge(cell) == cell.decode()


def test_parts_of_text_are_joined_end_to_end(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1 plus one?"}]
    first, second, *rest = IN_DIALECTS["messages"]["messages"]
    talk = [first, second | {"content": parts}, *rest]
    assert read_jsonl(tmp_path, "messages", {"messages": talk}) == [dump_turns(TALK).encode()]


def test_a_text_of_json_is_read_as_the_list_that_it_holds(tmp_path: Path) -> None:
    """Tables whose cells are texts write lists so."""
    record = {"conversations": json.dumps(IN_DIALECTS["sharegpt"]["conversations"])}
    (cell,) = read_jsonl(tmp_path, "sharegpt", record)
    assert cell == dump_turns(TALK[1:]).encode()


def test_instruction_and_input_are_joined_by_a_line_end(tmp_path: Path) -> None:
    (cell,) = read_jsonl(
        tmp_path, "alpaca", {"instruction": "Add one.", "input": "4", "output": "5"}
    )
    assert cell is not None
    assert [turn["content"] for turn in json.loads(cell)] == ["Add one.\n4", "5"]


def test_fields_of_a_dialect_may_have_other_names(tmp_path: Path) -> None:
    (cell,) = read_jsonl(
        tmp_path,
        "alpaca",
        {"prompt": "Hi", "response": "Hello"},
        fields={"instruction": "prompt", "output": "response"},
    )
    assert cell is not None
    assert [turn["content"] for turn in json.loads(cell)] == ["Hi", "Hello"]


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
BAD: dict[str, tuple[list[Any] | str, str, str]] = {
    "unknown role": ([USER, {"role": "tool", "content": "x"}], "bad_turns", "turn 2: role 'tool'"),
    "no content": ([USER, {"role": "assistant"}], "bad_turns", "turn 2: its content is no text"),
    "number": ([USER, {"role": "assistant", "content": 3}], "bad_turns", "turn 2: its content"),
    "tool calls": (
        [USER, {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}],
        "bad_turns",
        "turn 2: holds tool_calls",
    ),
    "reasoning": ([USER, ASSISTANT | {"reasoning": "hm"}], "bad_turns", "holds reasoning"),
    "no loss asked": ([USER, ASSISTANT | {"weight": 0}], "bad_turns", "turn 2: has weight 0"),
    "image": (
        [{"role": "user", "content": [{"type": "image"}]}, ASSISTANT],
        "bad_turns",
        "images in turns are not read; set chat.images",
    ),
    "no object": (["hi"], "bad_turns", "entry 1 is no object"),
    "no list": ("[1", "bad_turns", "a text that is not JSON"),
    "empty": ([], "turn_order", "no turn of the assistant"),
    "no answer": ([USER], "turn_order", "no turn of the assistant"),
    "two answers": ([USER, ASSISTANT, ASSISTANT], "turn_order", "turn 3: assistant, where user"),
    "two questions": ([USER, USER, ASSISTANT], "turn_order", "turn 2: user, where assistant"),
    "answer first": ([ASSISTANT, USER], "turn_order", "turn 1: assistant, where user"),
    "system within": (
        [USER, ASSISTANT, {"role": "system", "content": "x"}],
        "turn_order",
        "turn 3: system, where user",
    ),
    "blank answer": ([USER, ASSISTANT | {"content": " \n"}], "empty_text", "turn 2: only blanks"),
    "half a pair": ([USER, ASSISTANT | {"content": "\ud800"}], "bad_encoding", "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_is_no_conversation_is_filed_with_its_reason(tmp_path: Path, name: str) -> None:
    value, reason, detail = BAD[name]
    (cell,) = read_jsonl(tmp_path, "messages", {"messages": value})
    fault = judge(cell)
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert detail in fault.detail


def test_a_row_without_any_field_of_the_dialect_is_null(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path, "sharegpt", {"other": 1}) == [None]


def test_text_within_a_list_of_parquet_that_is_no_utf8_is_filed(tmp_path: Path) -> None:
    entry = pa.struct([("role", pa.string()), ("content", pa.string())])
    words = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    roles = pa.array(["user", "assistant"])
    turns = pa.StructArray.from_arrays([roles, words], fields=list(entry))
    messages = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), turns)
    pq.write_table(pa.table({"id": ["0"], "messages": messages}), tmp_path / "chat.parquet")
    source = ParquetSource.model_validate(
        {"source": "parquet", "chat": {"dialect": "messages"}, "columns": {"sample_id": "id"}}
    )
    fault = judge(cells(source.read(tmp_path))[0])
    assert isinstance(fault, Fault)
    assert fault.reason == "bad_turns"
    assert "not UTF-8" in fault.detail


def test_what_turns_say_is_cleaned_as_texts_are() -> None:
    talk: list[Turn] = [
        {"role": "user", "content": "cafe\u0301\r\n"},
        {"role": "assistant", "content": " <|im_end|>\x00 "},
    ]
    found = clean_turns(dump_turns(talk).encode(), 1000)
    assert isinstance(found, CleanText)
    assert [turn["content"] for turn in json.loads(found.text)] == ["caf\u00e9\n", " <|im_end|> "]
    assert found.changes == ["control", "nfc"]


@pytest.mark.parametrize("text", ["{}", "nonsense", '[{"role":"user"}]', "[" * 100_000])
def test_a_cell_that_is_no_list_of_turns_is_filed(text: str) -> None:
    fault = judge(text.encode(), 10**6)
    assert isinstance(fault, Fault)
    assert fault.reason == "bad_turns"


def test_a_conversation_that_is_too_long_is_filed() -> None:
    fault = judge(dump_turns(TALK).encode(), 100)
    assert isinstance(fault, Fault)
    assert fault.reason == "text_too_long"


def test_a_plugin_adds_a_dialect_by_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DIALECTS, "_entries", dict(DIALECTS.entries()))

    def read_pairs(fields: Any) -> Any:
        yield {"role": "user", "content": fields["q"]}
        yield {"role": "assistant", "content": fields["a"]}

    DIALECTS.register("pairs", Dialect(read_pairs, needed=("q", "a")))
    (cell,) = read_jsonl(tmp_path, "pairs", {"q": "Hi", "a": "Hello"})
    assert cell is not None
    assert [turn["content"] for turn in json.loads(cell)] == ["Hi", "Hello"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chat": {"dialect": "mesages"}}, "did you mean messages"),
        ({"chat": {"dialect": "alpaca", "fields": {"answer": "a"}}}, "no field 'answer'"),
        ({"chat": {"dialect": "alpaca"}, "columns": {"turns": "a"}}, "made of other fields"),
        ({}, "one column with content"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: Record, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        JsonlSource.model_validate({"source": "jsonl", **settings})
