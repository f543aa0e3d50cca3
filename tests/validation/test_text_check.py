import pytest

from plumbline.validation.faults import Fault
from plumbline.validation.text_check import CleanText, clean_text, is_blank


def cleaned(text: str) -> CleanText:
    result = clean_text(text.encode("utf-8", "surrogatepass"), 1000)
    assert isinstance(result, CleanText)
    return result


@pytest.mark.parametrize(
    "text",
    [
        "a red circle",
        "line one\nline two\tend ",
        "null",
        "NaN",
        "<pad> [MASK] </s> <image>",
        "{answer} {{x}} %s",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 family",
        "\u05e9\u05dc\u05d5\u05dd \u4f60\u597d",
        "caf\u00e9",
        "\u00c3\u00a9 mojibake",
        "\u200bvisible",
        "0",
    ],
)
def test_good_text_stays_as_it_is(text: str) -> None:
    assert cleaned(text) == CleanText(text, control=False, bom=False, nfc=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\t\r\n",
        "\u00a0\u2003\u3000",
        "\u200b\u200d\u2060",
        "\ufeff",
        "\x00\x01",
        "\u2800\u3164",
        "\ufe0f\u034f",
        "\u00ad",
    ],
)
def test_text_without_ink_is_empty(text: str) -> None:
    found = clean_text(text.encode(), 1000)
    assert isinstance(found, Fault)
    assert found.reason == "empty_text"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xe9", id="latin-1"),
        pytest.param(b"\xed\xa0\x80", id="surrogate"),
        pytest.param(b"\xc0\xaf", id="overlong"),
        pytest.param(b"\xf5\x80\x80\x80", id="beyond Unicode"),
        pytest.param(b"\xe2\x82", id="cut off"),
    ],
)
def test_bytes_that_are_not_utf8_are_a_fault(raw: bytes) -> None:
    found = clean_text(b"text " + raw, 1000)
    assert isinstance(found, Fault)
    assert found.reason == "bad_encoding"
    assert "byte 5" in found.detail


def test_control_characters_go_and_line_ends_become_one() -> None:
    assert cleaned("a\x00b\x1bc\x7f\x85\r\nd\re\n\tf") == CleanText(
        "abc\nd\ne\n\tf", control=True, bom=False, nfc=False
    )


def test_a_leading_byte_order_mark_goes_and_one_inside_stays() -> None:
    assert cleaned("\ufeffone\ufefftwo") == CleanText(
        "one\ufefftwo", control=False, bom=True, nfc=False
    )


def test_both_normal_forms_become_one() -> None:
    assert cleaned("cafe\u0301") == CleanText("caf\u00e9", control=False, bom=False, nfc=True)


def test_cleaning_twice_changes_nothing() -> None:
    once = cleaned("\ufeffcafe\u0301\r\n\x07!")
    assert cleaned(once.text) == CleanText(once.text, control=False, bom=False, nfc=False)


@pytest.mark.parametrize("text", ["x" * 1001, "\u4f60" * 1001, "x" * 5000])
def test_text_above_the_limit_is_a_fault(text: str) -> None:
    found = clean_text(text.encode(), 1000)
    assert isinstance(found, Fault)
    assert found.reason == "text_too_long"


def test_text_at_the_limit_is_kept() -> None:
    assert len(cleaned("\U0001f600" * 1000).text) == 1000


@pytest.mark.parametrize(("marks", "kept"), [(256, True), (257, False)])
def test_a_longer_run_of_combining_marks_than_256_is_a_fault(marks: int, kept: bool) -> None:
    # Normalising sorts such a run by insertion: a million marks would take hours.
    text = "a" * 5000 + "\u0301\u0323" * (marks // 2) + "\u0301" * (marks % 2) + "b" * 5000
    found = clean_text(text.encode(), 20_000)
    if kept:
        assert isinstance(found, CleanText)
    else:
        detail = "more than 256 combining marks in a row"
        assert found == Fault("bad_encoding", detail)


def test_a_run_of_marks_in_a_short_text_is_kept() -> None:
    found = clean_text(("a" + "\u0323" * 4095).encode(), 5000)
    assert isinstance(found, CleanText)
    assert found.nfc  # the first of the marks is composed with the letter


def test_blank_looks_beyond_the_first_character() -> None:
    assert is_blank(" \u200b\u00a0")
    assert not is_blank(" \u200b.")
