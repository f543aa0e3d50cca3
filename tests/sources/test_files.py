"""Which files of a dataset count: places of splits may be files, folders or patterns of paths."""

from pathlib import Path

import pytest

from plumbline.errors import DataError
from plumbline.sources.files import find_files, matching, why_passed_over
from plumbline.sources.patterns import is_pattern, is_within

NAMES = (
    "data/train-0.csv",
    "data/train-1.csv",
    "data/test-0.csv",
    "data/more/train-2.csv",
    "x.csv",
)


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("data/train-*.csv", ["data/train-0.csv", "data/train-1.csv"]),
        ("**/train-*.csv", ["data/more/train-2.csv", "data/train-0.csv", "data/train-1.csv"]),
        ("data/train-?.csv", ["data/train-0.csv", "data/train-1.csv"]),
        ("*/train-[1-9].csv", ["data/train-1.csv"]),
        ("data/**", ["data/more/train-2.csv", *sorted(NAMES[:3])]),
    ],
)
def test_a_pattern_chooses_paths_and_its_star_stays_in_a_folder(
    tmp_path: Path, pattern: str, found: list[str]
) -> None:
    put(tmp_path, *NAMES)
    files = list(find_files(tmp_path, {"train": pattern}, matching("*.csv")))
    assert sorted(file.name for file in files) == found
    assert {file.split for file in files} == {"train"}
    passed = [n for n in NAMES if why_passed_over(n, {"train": pattern}, matching("*.csv"), "")]
    assert sorted(passed) == sorted(set(NAMES) - set(found))


def test_a_pattern_that_no_file_has_is_named_with_its_split(tmp_path: Path) -> None:
    put(tmp_path, *NAMES)
    with pytest.raises(DataError, match=r"dev-\*\.csv: no file has this pattern.*split val"):
        list(find_files(tmp_path, {"val": "data/dev-*.csv"}, matching("*.csv")))


def test_a_file_whose_name_has_wildcards_is_that_file(tmp_path: Path) -> None:
    put(tmp_path, "a[1].csv", "a1.csv")
    assert is_pattern("a[1].csv")
    (file,) = find_files(tmp_path, {"train": "a[1].csv"}, matching("*.csv"))
    assert file.name == "a[1].csv"


def test_what_is_within_places_is_named_by_one_or_lies_below_one() -> None:
    assert is_within("a/b.csv", ["a"])
    assert is_within("a/b.csv", ["c", "a/*.csv"])
    assert is_within("a/b/c.csv", ["**/b"])
    assert not is_within("ab/c.csv", ["a"])
    assert not is_within("a/b/c.csv", ["a/*.csv"])
    assert not is_within("a/b.csv", [])
