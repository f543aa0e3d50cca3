"""Each guess about a table is a rule with a known answer: encoding, delimiter, header, roles."""

from pathlib import Path

import pytest

from plumbline.importing.delimited import guess_delimiter, guess_encoding, guess_header
from plumbline.importing.fields import Field
from plumbline.importing.listing import places_of_splits, split_of_name
from plumbline.importing.roles import find_dialect, find_roles


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ("plain text", "ascii", "utf-8"),
        ("caf\xe9 \u2603", "utf-8", "utf-8"),
        ("caf\xe9 cr\xe8me", "latin-1", "latin-1"),
        ("\u201cquoted\u201d caf\xe9", "cp1252", "cp1252"),
        ("привет мир, как дела", "cp1251", "cp1251"),
        ("привет мир, как дела сегодня", "utf-8", "utf-8"),
        ("some text with a mark", "utf-16", "utf-16"),
        ("some text without a mark\n" * 5, "utf-16-le", "utf-16-le"),
    ],
)
def test_the_encoding_is_told_by_the_bytes(
    tmp_path: Path, text: str, encoding: str, guess: str
) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert guess_encoding(tmp_path / "a.csv").value == guess


def test_a_character_that_the_look_cuts_in_two_is_no_stray_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plumbline.importing.delimited.LOOK_BYTES", 4)
    (tmp_path / "a.csv").write_text("abc\u20ac", encoding="utf-8")
    assert guess_encoding(tmp_path / "a.csv").value == "utf-8"


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_gives_every_record_as_many_cells(mark: str) -> None:
    lines = [f'"a{other}b"{mark}x, y; z | w\t{mark}c\n' for other in ",;|"]
    quoted = [line.replace("x, y; z | w\t", '"x, y; z | w\t"') for line in lines]
    assert guess_delimiter([f"one{mark}two{mark}three\n", *quoted]).value == mark


def test_one_column_is_parted_by_nothing() -> None:
    assert guess_delimiter(["text\n", "a b\n"]).value == ","


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["file,label\n", "a.png,cat\n"], None),
        (["a.png,cat\n", "b.png,dog\n"], ["file", "column2"]),
        (["some text,1\n", "other text,0\n"], ["column1", "column2"]),
        (["text,1990\n", "a,5\n"], ["column1", "column2"]),
        (["text,text\n", "a,5\n"], None),
        ([], None),
    ],
)
def test_a_header_has_names_and_neither_numbers_nor_files(
    lines: list[str], names: list[str] | None
) -> None:
    assert guess_header(lines, ",") == names


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"RIFF\0\0\0\0WAVE", "audio"),
        ({"bytes": b"\xff\xd8\xff", "path": None}, "image"),
        ({"bytes": None, "path": "a/b.JPG"}, "image"),
        ("a/b.jpeg", "image name"),
        ("b\\c.WAV", "audio name"),
        ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA", "image base64"),
        (
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAf\nFcSJAAAADUlEQVR42mNkYPhfz0AE",
            "image base64",
        ),
        ("a", "text"),
        ("5", "integer"),
        ("5.0", "integer"),
        ("-1.5e3", "float"),
        (5, "integer"),
        (0.5, "float"),
        (True, "bool"),
        (["a", "b"], "texts"),
        ([[1, 2], [3, 4]], "numbers"),
        ([{"role": "user"}], "objects"),
        (b"no medium", "bytes"),
    ],
)
def test_cells_tell_what_a_column_holds(value: object, kind: str) -> None:
    assert Field("x", [value, None, value]).kind == kind


def field(name: str, *values: object, rows: int = 60) -> Field:
    return Field(name, [values[number % len(values)] for number in range(rows)])


def numbered(name: str, text: str) -> Field:
    return Field(name, [text.format(number) for number in range(60)])


@pytest.mark.parametrize(
    ("fields", "media", "roles"),
    [
        (
            [numbered("id", "{}"), numbered("text", "some text {}")],
            "",
            {"sample_id": "id", "text": "text"},
        ),
        ([numbered("review", "a film {}"), field("y", 0, 1)], "", {"text": "review", "label": "y"}),
        ([numbered("x", "some words {}"), field("z", "a", "b")], "", {"text": "x", "label": "z"}),
        (
            [numbered("title", "house {}"), numbered("price", "{}.5")],
            "",
            {"text": "title", "value": "price"},
        ),
        (
            [numbered("question", "why {}?"), numbered("answer", "since {}")],
            "",
            {"question": "question", "answer": "answer"},
        ),
        ([numbered("question", "why {}?")], "", {"text": "question"}),
        (
            [numbered("de", "ein Satz {}"), numbered("en", "a sentence {}")],
            "",
            {"source": "de", "target": "en"},
        ),
        (
            [numbered("article", "long {}"), numbered("summary", "short text {}")],
            "",
            {"source": "article", "target": "summary"},
        ),
        (
            [numbered("source", "ein Satz {}"), numbered("target", "a sentence {}")],
            "",
            {"source": "source", "target": "target"},
        ),
        (
            [numbered("text", "a film {}"), field("target", "good", "bad")],
            "",
            {"text": "text", "label": "target"},
        ),
        ([numbered("caption", "a picture {}")], "image", {"caption": "caption"}),
        ([numbered("words", "a picture {}")], "image", {"caption": "words"}),
        (
            [field("label", 0, 1), numbered("text", "a picture {}")],
            "image",
            {"label": "label", "caption": "text"},
        ),
        (
            [field("digit", *range(10)), field("speaker", *"abcdef")],
            "audio",
            {"label": "digit", "group": "speaker"},
        ),
        (
            [field("subset", "train", "validation"), field("class", "a", "b")],
            "image",
            {"split": "subset", "label": "class"},
        ),
        ([field("kind", "a")], "", {"label": "kind"}),
        ([numbered("w", "{}.5"), numbered("h", "{}.25")], "", {}),
    ],
)
def test_columns_have_roles_by_name_and_content(
    fields: list[Field], media: str, roles: dict[str, str]
) -> None:
    found = find_roles(fields, media, {})
    assert {one.role: one.field for one in found} == roles
    assert all(one.reason for one in found)


def test_what_the_command_line_says_goes_before_every_rule() -> None:
    fields = [numbered("a", "some text {}"), numbered("b", "other text {}"), field("c", 0, 1)]
    said = {one.role: one.field for one in find_roles(fields, "", {"text": "b", "label": "none"})}
    assert said == {"text": "b"}


@pytest.mark.parametrize(
    ("fields", "dialect"),
    [
        ([Field("messages", [[{"role": "user", "content": "x"}]])], "messages"),
        ([Field("conversations", [[{"from": "human", "value": "x"}]])], "sharegpt"),
        ([Field("instruction", ["a"]), Field("output", ["b"])], "alpaca"),
        ([Field("conversations", [[{"who": "x"}]])], None),
        ([Field("instruction", ["a"])], None),
    ],
)
def test_dialects_of_chat_are_told_by_their_fields(
    fields: list[Field], dialect: str | None
) -> None:
    found = find_dialect(fields)
    assert (found and found[0]) == dialect


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("data/validation.csv", "val"),
        ("test/a.csv", "test"),
        ("my_dev_set.jsonl", "val"),
        ("trains.csv", None),
        ("all.csv", None),
    ],
)
def test_names_say_splits_in_words_of_their_own(name: str, split: str | None) -> None:
    assert split_of_name(name) == split


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["train.csv", "test.csv"], {"train": "train.csv", "test": "test.csv"}),
        (
            [f"d/train-{n:05d}-of-00012.parquet" for n in range(12)] + ["d/test.parquet"],
            {"train": "d/train-*.parquet", "test": "d/test.parquet"},
        ),
        (
            ["train/a.csv", "train/b/c.csv", "dev/a.csv"],
            {"train": "train", "val": "dev/a.csv"},
        ),
        (
            ["x/train-0.tar", "x/train-1.tar", "y/train-0.tar", "y/test-0.tar"],
            {"train": "**/train-*.tar", "test": "y/test-0.tar"},
        ),
        (["train.csv", "more.csv"], {}),
        (["a.csv", "b.csv"], {}),
        (["test.csv", "dev.csv"], {}),
    ],
)
def test_places_of_splits_choose_their_files_and_no_others(
    names: list[str], places: dict[str, str]
) -> None:
    assert places_of_splits(names)[0] == places
