"""Labels and values are judged by their bytes alone (FD35)."""

import pytest

from plumbline.validation.faults import Fault
from plumbline.validation.target_check import clean_label, clean_number


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("7", "7"),
        ("nicolas", "nicolas"),
        ("not a number", "not a number"),
        ("NaN", "NaN"),
        ("-1", "-1"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffyes", "yes"),
        ("x" * 256, "x" * 256),
        (" positive\u00a0\n", "positive"),
        ("a  b", "a  b"),
        ("0.0", "0"),
        (" 12.00 ", "12"),
        ("-1.0", "-1"),
        ("1.5", "1.5"),
        ("1.0.0", "1.0.0"),
        ("1.", "1."),
    ],
)
def test_labels_are_names_in_the_form_of_clean_text(raw: str, expected: str) -> None:
    found = clean_label(raw.encode())
    assert not isinstance(found, Fault)
    assert found.text == expected


@pytest.mark.parametrize("raw", [b"\xff", b"\xed\xa0\x80", b"x" * 257, b"x" * 5000])
def test_other_labels_are_bad(raw: bytes) -> None:
    found = clean_label(raw)
    assert isinstance(found, Fault)
    assert found.reason == "bad_label"


@pytest.mark.parametrize("raw", [b"", b" \n", "\u200b".encode()])
def test_an_empty_cell_is_a_missing_label(raw: bytes) -> None:
    found = clean_label(raw)
    assert isinstance(found, Fault)
    assert found.reason == "null_label"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("3", "3.0"),
        ("-0.50", "-0.5"),
        ("+1e3", "1000.0"),
        (".5", "0.5"),
        ("5.", "5.0"),
        (" 2.5\r\n", "2.5"),
        ("0.1", "0.1"),
        ("1e-400", "0.0"),
        (repr(2 / 3), repr(2 / 3)),
    ],
)
def test_values_are_written_in_one_way(raw: str, expected: str) -> None:
    found = clean_number(raw.encode())
    assert not isinstance(found, Fault)
    assert found.text == expected
    assert float(found.text) == float(raw)


@pytest.mark.parametrize(
    "raw",
    [
        *("", " ", ".", "one", "1 2", "1,5", "--1", "1e", "0x10", "1_000"),
        *("nan", "inf", "-Infinity", "1e999", "9" * 300),
        *("\u0663", "\u00a01"),
    ],
)
def test_what_is_no_finite_decimal_number_is_a_bad_value(raw: str) -> None:
    found = clean_number(raw.encode())
    assert isinstance(found, Fault)
    assert found.reason == "bad_value"


def test_bytes_that_are_not_utf8_are_a_bad_value() -> None:
    found = clean_number(b"1\xff")
    assert isinstance(found, Fault)
    assert found.reason == "bad_value"
