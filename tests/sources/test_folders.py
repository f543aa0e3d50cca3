"""A folder for each label: files arrive as they are, with what a table says of them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plumbline.errors import DataError
from plumbline.sources.folders import AudioFolderSource, ImageFolderSource


def read(path: Path, **settings: Any) -> list[dict[str, Any]]:
    return read_and_tell(path, **settings)[0]


def read_and_tell(path: Path, **settings: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and what the source has to say of them."""
    source = ImageFolderSource.model_validate({"source": "imagefolder", **settings})
    rows = [row for batch in source.read(path) for row in batch.to_pylist()]
    return rows, source.tally.lines()


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_the_folder_is_the_label(tmp_path: Path) -> None:
    put(tmp_path, "dog/b.png", "cat/deep/a.JPG", "cat/z.jpeg")
    assert read(tmp_path) == [
        {"sample_id": "cat/deep/a.JPG", "image": b"cat/deep/a.JPG", "label": "cat"},
        {"sample_id": "cat/z.jpeg", "image": b"cat/z.jpeg", "label": "cat"},
        {"sample_id": "dog/b.png", "image": b"dog/b.png", "label": "dog"},
    ]


def test_files_of_others_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "cat/.b.png", "cat/_c.png", "cat/Thumbs.db", "root.png", ".x/a.png")
    put(tmp_path, "cat/a.wav", "README.md", "__MACOSX/cat/a.png")
    assert [row["sample_id"] for row in read(tmp_path)] == ["cat/a.png"]


def test_splits_are_folders_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/a.png", "held/dog/b.png", "other/cat/c.png")
    splits = {"train": "train", "test": "held"}
    rows = read(tmp_path, splits=splits, templates={"caption": "a photo of a {label}"})
    assert [(r["sample_id"], r["split"], r["label"], r["caption"]) for r in rows] == [
        ("train/cat/a.png", "train", "cat", "a photo of a cat"),
        ("held/dog/b.png", "test", "dog", "a photo of a dog"),
    ]
    source = ImageFolderSource(source="imagefolder", splits=splits)
    assert source.given_splits == ["test", "train"]


def test_an_image_of_no_bytes_reaches_validation(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    (tmp_path / "cat/a.png").write_bytes(b"")
    assert [row["image"] for row in read(tmp_path)] == [b""]


def test_a_table_tells_more_and_its_lines_about_nothing_are_rows_too(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b/c.png", "d.png")
    (tmp_path / "metadata.csv").write_text(
        "file_name,words\nb/c.png,one\na.png,NA\nb/c.png,two\ngone.png,three\nbroken\n",
        encoding="utf-8",
    )
    table = {"file": "metadata.csv", "columns": {"caption": "words"}}
    rows, told = read_and_tell(tmp_path, labels="none", table=table)
    assert [(r["sample_id"], r["group"], r["image"], r["caption"]) for r in rows] == [
        ("a.png", "a.png", b"a.png", "NA"),
        ("b/c.png:1", "b/c.png", b"b/c.png", "one"),
        ("b/c.png:2", "b/c.png", b"b/c.png", "two"),
        ("d.png", "d.png", b"d.png", None),
        ("metadata.csv:4", None, None, "three"),
        ("metadata.csv:5", None, None, None),
    ]
    assert told == ["2 rows of the table name no file, the first: metadata.csv:4"]


def test_each_split_can_have_a_table(tmp_path: Path) -> None:
    put(tmp_path, "train/a.png", "val/a.png")
    for split in ("train", "val"):
        (tmp_path / split / "metadata.csv").write_text(
            f"name,l\na.png,{split}-label\n", encoding="utf-8"
        )
    table = {"file": "{split}/metadata.csv", "key": "name", "columns": {"label": "l"}}
    rows = read(tmp_path, labels="none", table=table, splits={"train": "train", "val": "val"})
    assert [(r["sample_id"], r["split"], r["label"]) for r in rows] == [
        ("train/a.png", "train", "train-label"),
        ("val/a.png", "val", "val-label"),
    ]


def test_one_table_can_tell_of_all_splits(tmp_path: Path) -> None:
    put(tmp_path, "train/a.png", "val/b.png")
    (tmp_path / "all.csv").write_text("file_name,l\ntrain/a.png,x\nval/b.png,y\n", encoding="utf-8")
    table = {"file": "all.csv", "columns": {"label": "l"}}
    rows = read(tmp_path, labels="none", table=table, splits={"train": "train", "val": "val"})
    assert [row["label"] for row in rows] == ["x", "y"]


def test_sounds_are_found_alike(tmp_path: Path) -> None:
    put(tmp_path, "seven/a.WAV", "seven/b.flac", "seven/c.png")
    source = AudioFolderSource(source="audiofolder")
    rows = [row for batch in source.read(tmp_path) for row in batch.to_pylist()]
    assert rows == [
        {"sample_id": f"seven/{name}", "audio": f"seven/{name}".encode(), "label": "seven"}
        for name in ("a.WAV", "b.flac")
    ]


def test_a_name_that_is_no_text_reaches_validation_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    (tmp_path / "cat/a.png").rename(tmp_path / "cat" / "caf\udce9.png")
    (batch,) = ImageFolderSource(source="imagefolder").read(tmp_path)
    assert batch.column("sample_id").view("binary").to_pylist() == [b"cat/caf\xe9.png"]


@pytest.mark.parametrize("names", [[], ["a.png"], ["cat/a.wav"]])
def test_a_folder_without_images_says_what_is_expected(tmp_path: Path, names: list[str]) -> None:
    put(tmp_path, *names)
    with pytest.raises(DataError, match=r"no image files in folders named for their labels.*\.png"):
        read(tmp_path)


def test_a_place_or_a_table_behind_a_link_that_leaves_the_folder_is_refused(
    tmp_path: Path,
) -> None:
    put(tmp_path, "data/cat/a.png", "secret/cat/b.png")
    (tmp_path / "secret/captions.csv").write_text("file_name,words\ncat/a.png,x\n", "utf-8")
    (tmp_path / "data/link").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"link/cat: a link that leaves the dataset's folder"):
        read(tmp_path / "data", splits={"train": "link/cat"}, labels="none")
    (tmp_path / "data/captions.csv").symlink_to(tmp_path / "secret/captions.csv")
    for file in ("captions.csv", "link/captions.csv"):
        table = {"file": file, "columns": {"caption": "words"}}
        with pytest.raises(DataError, match=r"captions\.csv: a link that leaves"):
            read(tmp_path / "data", table=table)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "secret.png", "data/cat/a.png")
    (tmp_path / "data/cat/b.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"b\.png: a link that leaves"):
        read(tmp_path / "data")


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"table": {"file": "t.csv", "columns": {"label": "l"}}}, "label comes from the folder"),
        ({"table": {"file": "t.csv", "columns": {"image": "l"}}}, "not for the table to say"),
        ({"table": {"file": "../t.csv", "columns": {"caption": "l"}}}, "below the dataset's path"),
        ({"labels": "none", "templates": {"caption": "{label}"}}, "there is sample_id"),
        ({"splits": {"dev": "x"}}, "unknown split 'dev'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ImageFolderSource.model_validate({"source": "imagefolder", **settings})


def test_folders_of_splits_are_no_labels(tmp_path: Path) -> None:
    put(tmp_path, "train/a.png", "Val/b.png", ".x/c.png")
    with pytest.raises(DataError, match=r"Val, train are named for splits.*{val: Val, train: tr"):
        read(tmp_path)
    put(tmp_path, "bus/a.png")
    assert [row["label"] for row in read(tmp_path)] == ["Val", "bus", "train"]


def test_images_of_any_ending_and_none_are_read_where_that_is_set(tmp_path: Path) -> None:
    put(tmp_path, "cat/a", "cat/b.JPE", "cat/c.xyz", "dog/d.jfif", "dog/.e", "stray.jpg", "t.csv")
    assert [row["sample_id"] for row in read(tmp_path)] == ["cat/b.JPE", "dog/d.jfif"]
    assert [row["sample_id"] for row in read(tmp_path, endings="any")] == [
        *("cat/a", "cat/b.JPE", "cat/c.xyz", "dog/d.jfif"),
    ]
    source = ImageFolderSource(source="imagefolder", endings="any")
    reasons = {name: source.passes_over(name) for name in ("cat/a", "stray.jpg")}
    assert reasons == {"cat/a": None, "stray.jpg": "passed over: in no folder named for a label"}


def test_a_table_is_no_image_where_all_endings_are_read(tmp_path: Path) -> None:
    put(tmp_path, "a", "b")
    (tmp_path / "t.csv").write_text("file_name,words\na,one\nb,two\n", encoding="utf-8")
    table = {"file": "t.csv", "columns": {"caption": "words"}}
    rows = read(tmp_path, labels="none", endings="any", table=table)
    assert [(row["image"], row["caption"]) for row in rows] == [(b"a", "one"), (b"b", "two")]


def test_a_pattern_is_no_folder_of_labels() -> None:
    with pytest.raises(ValidationError, match="a folder is needed"):
        ImageFolderSource(source="imagefolder", splits={"train": "train-*"})
