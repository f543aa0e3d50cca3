"""What data says is shown and never acts: on a terminal, in a log, in a spreadsheet."""

import csv
import io
import json
import logging
import random
import sys
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest

from plumbline.data.csv_writer import write_csv
from plumbline.errors import DataError
from plumbline.report.page import environment
from plumbline.report.tables import read_table
from plumbline.stage import PlainFormatter, run_stage
from plumbline.text import csv_cell, from_csv_cell, one_line, shown

ESC, TURNED = "\x1b[31mred\x1b[0m", "\u202egnp.exe"
HOSTILE = [
    '=HYPERLINK("x","y")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\uff1d1+1",
    "'=1",
    "''",
    "'",
    "=",
    "-",
]
HARMLESS = ["cat", "", " =1", "a=b", "-1", "+1.5", "-1e-3", "1", "it's", "你好", "é"]


def test_what_acts_is_written_out_and_all_else_stays() -> None:
    assert shown(ESC) == "\\u001b[31mred\\u001b[0m"
    assert shown(TURNED) == "\\u202egnp.exe"
    assert shown("a\r\nb\tc\x9b\x7f\u2028\udcff\U000e0041") == (
        "a\\u000d\nb\tc\\u009b\\u007f\\u2028\\udcff\\udb40\\udc41"
    )
    kept = "naïve 你好 👩\u200d👩\u200d👧 क\u094d\u200dष שלום\n\t'\\u001b'"
    assert shown(kept) == kept
    assert one_line("a\nerror: b") == "a\\nerror: b"


def test_no_control_character_or_turn_of_direction_gets_through() -> None:
    def acts(char: str) -> bool:
        turns = unicodedata.bidirectional(char) in {
            *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
        }
        kind = unicodedata.category(char)
        return turns or (kind in {"Cc", "Zl", "Zp", "Cs"} and char not in "\n\t")

    acting = [char for char in map(chr, range(sys.maxunicode + 1)) if acts(char)]
    assert len(acting) > 2000  # surrogates among them
    assert [hex(ord(char)) for char in acting if shown(char) == char] == []


def test_json_that_is_shown_has_the_same_value() -> None:
    value = {"a": ESC + TURNED + "\x7f\x85\U000e0041é👩\u200d👧\\u001b\n"}
    text = shown(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert "\u202e" not in text
    assert "é" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_that_a_spreadsheet_would_compute_becomes_one_that_it_shows(text: str) -> None:
    assert csv_cell(text) == "'" + text
    assert from_csv_cell(csv_cell(text)) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_and_numbers_stay_as_they_are(text: str) -> None:
    assert csv_cell(text) == text
    assert from_csv_cell(text) == text


def test_no_two_texts_share_a_cell() -> None:
    draw = random.Random(0)
    texts = {"".join(draw.choices("='-1a\t", k=draw.randint(0, 4))) for _ in range(3000)}
    assert len({csv_cell(text) for text in texts}) == len(texts)
    assert all(from_csv_cell(csv_cell(text)) == text for text in texts)


def test_a_table_of_hostile_names_comes_back_from_csv(tmp_path: Path) -> None:
    names = [*HOSTILE, *HARMLESS, ESC]
    rows = [{"class": name, "f1": -at / 3, "=1": at} for at, name in enumerate(names)]
    write_csv(pa.Table.from_pylist(rows), tmp_path / "per_class.csv")
    assert read_table(tmp_path / "per_class.csv") == rows
    with (tmp_path / "per_class.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    starts = [cell for cell in cells if cell[:1] in tuple("=+-@\t")]
    assert all(float(cell) is not None for cell in starts)  # numbers and nothing else


def test_a_log_line_and_an_error_are_one_line_each_whatever_data_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logger = logging.getLogger("test_text")
    logger.propagate = False
    logger.addHandler(handler)
    logger.warning("label %s", f"{ESC}\nerror: {TURNED}")
    assert stream.getvalue() == ("label \\u001b[31mred\\u001b[0m\\nerror: \\u202egnp.exe\n")

    def fails(arguments: object) -> None:
        raise DataError(f"a.csv: {ESC}\n{TURNED}")

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit):
        run_stage(fails)
    assert capsys.readouterr().err == ("error: a.csv: \\u001b[31mred\\u001b[0m\\n\\u202egnp.exe\n")


def test_the_page_shows_what_would_act_and_escapes_what_is_markup() -> None:
    page = environment().from_string("<b>{{ name }}</b>{{ name|safe }}{{ 3 }}")
    assert page.render(name=f"<i>{TURNED}") == (
        "<b>&lt;i&gt;\\u202egnp.exe</b><i>\u202egnp.exe3"  # markup is ours, and stays
    )
