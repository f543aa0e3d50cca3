"""What lies below a URL: all of it, under names that files can have, told apart by version."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import CheckpointError, ConfigError, DataError
from plumbline.objects.listing import (
    checksum_of,
    differences,
    has_checksum,
    list_objects,
    mark_of,
    read_listing,
)
from plumbline.objects.settings import ObjectsConfig
from tests.objects.conftest import Bucket


def config(url: str, *only: str) -> ObjectsConfig:
    return ObjectsConfig(url=url, only=list(only))


def names(url: str, *only: str) -> list[str]:
    return [one.name for one in list_objects(config(url, *only)).objects]


def test_all_objects_below_a_prefix_are_listed_and_no_neighbours(bucket: Bucket) -> None:
    bucket.put_all({"x/": b"", "x/a.txt": b"1", "x/sub/é [1]#%20?.txt": b"2", "xx/b.txt": b"3"})
    assert names(bucket.url("x")) == ["a.txt", "sub/é [1]#%20?.txt"]
    assert names(bucket.url("x/")) == names(bucket.url("x"))
    assert names(bucket.url()) == ["x/a.txt", "x/sub/é [1]#%20?.txt", "xx/b.txt"]


def test_a_url_may_be_one_object(bucket: Bucket) -> None:
    bucket.put_all({"x/a.csv": b"a,b\n", "x/a.csv.bak": b""})
    listing = list_objects(config(bucket.url("x/a.csv")))
    assert [one.name for one in listing.objects] == ["a.csv"]
    assert listing.single
    assert listing.url_of("a.csv") == bucket.url("x/a.csv")


def test_more_objects_than_the_store_says_at_a_time(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    for number in range(35):
        bucket.put_all({f"x/{number:02d}": b""})
    assert names(bucket.url("x")) == [f"{number:02d}" for number in range(35)]


def test_only_takes_files_folders_and_patterns(bucket: Bucket) -> None:
    bucket.put_all(dict.fromkeys(["x/a.csv", "x/in/b.csv", "x/in/c.txt", "x/in/in/d.csv"], b""))
    url = bucket.url("x")
    assert names(url, "*.csv") == ["a.csv"]
    assert names(url, "**/*.csv") == ["a.csv", "in/b.csv", "in/in/d.csv"]
    assert names(url, "a.csv", "in/in") == ["a.csv", "in/in/d.csv"]
    with pytest.raises(DataError, match=r"no object named \*\.png; check bucket, prefix"):
        list_objects(config(url, "*.png"))


@pytest.mark.parametrize("key", ["x/../evil", "x/a/./b", "x/a//b", f"x/{'n' * 256}"])
def test_a_name_that_no_file_can_have_is_refused_and_can_be_left_out(
    bucket: Bucket, key: str
) -> None:
    bucket.put_all({key: b"", "x/good.txt": b""})
    with pytest.raises(DataError, match=r"rename it there, or leave it out \(only\)"):
        list_objects(config(bucket.url("x")))
    assert names(bucket.url("x"), "good.txt") == ["good.txt"]


def test_a_name_below_that_of_another_object_is_refused(bucket: Bucket) -> None:
    bucket.put_all({"x/a": b"", "x/a/b": b""})
    with pytest.raises(DataError, match="x/a/b: lies below the name of another object"):
        list_objects(config(bucket.url("x")))


def test_the_same_objects_are_the_same_listing_and_a_changed_one_is_another(
    bucket: Bucket,
) -> None:
    bucket.put_all({"x/a": b"1", "x/b": b"2", "x/c": b"3"})
    first = list_objects(config(bucket.url("x")))
    bucket.put_all({"x/a": b"1"})  # put there again, of another time
    assert list_objects(config(bucket.url("x"))).digest == first.digest
    bucket.put_all({"x/a": b"4", "x/d": b""})
    bucket.remove("x/c")
    second = list_objects(config(bucket.url("x")))
    assert second.digest != first.digest
    assert differences(first, second) == {"new": 1, "changed": 1, "gone": 1}


def test_a_listing_comes_back_from_its_file_as_it_was(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put_all({"x/é\u2028.txt": b"1", "x/b": b"2"})
    bucket.put_in_pieces("x/large", b"a" * 5 * 2**20, b"b")
    listing = list_objects(config(bucket.url("x")))
    listing.write(tmp_path / "x.jsonl")
    assert read_listing(tmp_path / "x.jsonl") == listing
    assert [bool(one.checksum) for one in listing.objects] == [True, False, True]
    (tmp_path / "x.jsonl").write_text('{"url": 1}\n{', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"damaged .* run dvc repro -f list_objects@x"):
        read_listing(tmp_path / "x.jsonl")
    with pytest.raises(CheckpointError, match="missing; run dvc repro list_objects@y"):
        read_listing(tmp_path / "y.jsonl")


def test_nothing_in_a_listing_says_who_asked(bucket: Bucket) -> None:
    bucket.put_all({"x/a": b"1"})
    text = list_objects(config(bucket.url("x"))).text
    assert "test" not in text.replace(bucket.name, "")
    assert bucket.endpoint not in text


def test_a_store_without_tags_is_told_by_times(memory: Any) -> None:
    memory.pipe("/bucket/x/a.txt", b"1")
    first = list_objects(config("memory://bucket/x"))
    assert [one.name for one in first.objects] == ["a.txt"]
    assert list_objects(config("memory://bucket/x")).digest == first.digest
    memory.pipe("/bucket/x/a.txt", b"2")
    assert list_objects(config("memory://bucket/x")).digest != first.digest


CONTENT = b"what lies there"
MD5 = hashlib.md5(CONTENT).hexdigest()
INFOS = {
    "s3": ({"ETag": f'"{MD5}"'}, f"ETag:{MD5}", f"md5:{MD5}"),
    "s3 in pieces": ({"ETag": f'"{MD5}-2"'}, f"ETag:{MD5}-2", ""),
    "gs": (
        {"generation": "17", "md5Hash": "t+3y6a5uhw1yEpTsUGpeEA==", "etag": "CJ"},
        "generation:17",
        "md5:b7edf2e9ae6e870d721294ec506a5e10",
    ),
    "gs composed": ({"generation": "17", "crc32c": "AAAAAA==", "etag": "CJ"}, "generation:17", ""),
    "hf": (
        {"blob_id": "beef", "lfs": None, "xet_hash": None},
        "blob_id:beef",
        "git:beef",
    ),
    "hf, large": (
        {"blob_id": "beef", "lfs": {"sha256": "cafe", "size": 1}},
        "blob_id:beef",
        "sha256:cafe",
    ),
}


@pytest.mark.parametrize("store", INFOS)
def test_versions_and_checksums_are_those_that_the_store_has(store: str) -> None:
    info, mark, checksum = INFOS[store]
    assert mark_of(info) == mark
    assert checksum_of(info) == checksum


def test_checksums_are_those_of_the_content(tmp_path: Path) -> None:
    import subprocess

    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    git = subprocess.run(
        ["git", "hash-object", str(file)], capture_output=True, text=True, check=True
    )
    right = [
        f"md5:{MD5}",
        f"sha256:{hashlib.sha256(CONTENT).hexdigest()}",
        f"git:{git.stdout.strip()}",
    ]
    assert [has_checksum(file, checksum) for checksum in right] == [True] * 3
    file.write_bytes(CONTENT + b".")
    assert [has_checksum(file, checksum) for checksum in right] == [False] * 3


def test_a_bucket_or_prefix_that_is_not_there_is_named(bucket: Bucket) -> None:
    with pytest.raises(ConfigError, match=r"s3://no-such/x: not there \(The specified bucket"):
        list_objects(config("s3://no-such/x"))
    with pytest.raises(DataError, match="nowhere: no object there; check bucket, prefix"):
        list_objects(config(bucket.url("nowhere")))
