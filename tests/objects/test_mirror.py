"""A copy is what was listed or an error: fetched once, gone on with, never half there."""

import logging
import shutil
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plumbline import paths
from plumbline.errors import ConfigError, DataError, OutputError
from plumbline.objects import fetching
from plumbline.objects.fetching import Fetcher
from plumbline.objects.listing import Listing, list_objects
from plumbline.objects.mirror import home_of, local_copy, mirror, unneeded
from plumbline.objects.settings import ObjectsConfig
from tests.objects.conftest import Bucket

AGAIN = "plumbline repro -f list_objects@photos"
OBJECTS = {"x/a.txt": b"one", "x/empty": b"", "x/sub/b.txt": b"two" * 1000, "x/sub/é ?.txt": b"3"}


def listed(url: str) -> Listing:
    return list_objects(ObjectsConfig(url=url))


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def below(objects: dict[str, bytes], prefix: str = "x/") -> dict[str, bytes]:
    return {name.removeprefix(prefix): body for name, body in objects.items()}


def whole(listing: Listing) -> Path:
    return home_of(listing.url) / listing.digest[:16]


@pytest.fixture
def fetched(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Names of the objects that the server was asked for since the last call, by request."""
    caplog.set_level(logging.INFO, "werkzeug")

    def since() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
        caplog.clear()
        gets = [line.split("GET ")[1].split(" ")[0] for line in lines if "GET " in line]
        return sorted(path.rpartition("/")[2] for path in gets if "list-type" not in path)

    return since


def test_a_copy_has_every_byte_under_every_name_and_is_asked_for_once(
    bucket: Bucket, fetched: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_all(OBJECTS)
    listing = listed(bucket.url("x"))
    fetched()
    root = mirror(listing, AGAIN)
    assert content(root) == below(OBJECTS)
    assert len(fetched()) == 3  # of an empty object there is nothing to fetch
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*.txt")} == {0o444}
    assert not list(root.parent.glob("parts"))
    # Without a network, and without credentials.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert mirror(listing, AGAIN) == root


def test_a_url_of_one_object_gives_its_file(bucket: Bucket) -> None:
    bucket.put_all(OBJECTS)
    file = mirror(listed(bucket.url("x/a.txt")), AGAIN)
    assert file.name == "a.txt"
    assert file.read_bytes() == b"one"


def test_any_protocol_of_fsspec_is_copied(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system in memory stands in for those without a server here."""
    monkeypatch.setattr(fetching, "BLOCK_BYTES", 100)
    for name, body in OBJECTS.items():
        memory.pipe(f"/bucket/{name}", body)
    assert content(mirror(listed("memory://bucket/x"), AGAIN)) == below(OBJECTS)


def test_copies_may_lie_on_another_disk(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_all(OBJECTS)
    monkeypatch.setenv("PLUMBLINE_OBJECTS", str(tmp_path / "disk"))
    assert mirror(listed(bucket.url("x")), AGAIN).is_relative_to(tmp_path / "disk")


def test_its_size_is_said_before_it_is_fetched(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.put_all({**OBJECTS, "x/large": b"0" * 2_500_000})
    listing = listed(bucket.url("x"))
    with caplog.at_level(logging.INFO, "plumbline"):
        mirror(listing, AGAIN)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("plumbline")]
    assert said[0].startswith(f"{listing.url}: fetching 5 of 5 objects, 2.5 MB, into ")


def test_without_room_on_the_disk_nothing_is_fetched(
    bucket: Bucket, fetched: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_all(OBJECTS)
    listing = listed(bucket.url("x"))
    usage = shutil._ntuple_diskusage(10, 10, 3004 - 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    fetched()
    with pytest.raises(OutputError, match=r"GB are free: free some space .* PLUMBLINE_OBJECTS"):
        mirror(listing, AGAIN)
    assert fetched() == []


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int, error: type[BaseException]) -> list[int]:
    """End the fetching at some block; where the blocks that were read began."""
    read, starts, lock = Fetcher._read, [], threading.Lock()

    def stopping(self: Fetcher, facts: Any, start: int, end: int) -> bytes:
        with lock:
            starts.append(start)
            if len(starts) == call:
                raise error
        return read(self, facts, start, end)

    monkeypatch.setattr(Fetcher, "_read", stopping)
    return starts


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_fetch_that_was_stopped_goes_on_within_an_object(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(fetching, "BLOCK_BYTES", 1000)
    body = bytes(range(256)) * 20  # 5120 bytes: six blocks
    bucket.put_all({"x/large": body})
    listing = listed(bucket.url("x"))
    with monkeypatch.context() as patch:
        assert stop_at(patch, 4, error) == []
        with pytest.raises(error):
            mirror(listing, AGAIN)
    assert not whole(listing).exists()
    starts = stop_at(monkeypatch, 100, error)
    assert content(mirror(listing, AGAIN)) == {"large": body}
    assert starts == [3000, 4000, 5000]


def test_a_fetch_that_was_stopped_goes_on_with_the_objects_that_are_missing(
    bucket: Bucket, fetched: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = {f"x/{number:02d}": b"%d" % number for number in range(40)}
    bucket.put_all(objects)
    listing = listed(bucket.url("x"))
    fetched()
    with monkeypatch.context() as patch:
        stop_at(patch, 25, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            mirror(listing, AGAIN)
    first = fetched()
    assert not whole(listing).exists()
    assert content(mirror(listing, AGAIN)) == below(objects)
    second = fetched()
    assert 0 < len(second) <= 16
    assert set(first) | set(second) == set(below(objects))
    assert len(first) + len(second) == 40  # none twice


def test_what_a_new_listing_shares_with_an_old_copy_is_not_fetched(
    bucket: Bucket, fetched: Callable[[], list[str]]
) -> None:
    bucket.put_all(OBJECTS)
    old = listed(bucket.url("x"))
    before = mirror(old, AGAIN)
    bucket.put_all({"x/a.txt": b"ONE", "x/new.txt": b"new"})
    bucket.remove("x/empty")
    new = listed(bucket.url("x"))
    fetched()
    after = mirror(new, AGAIN)
    assert fetched() == ["a.txt", "new.txt"]
    changed = {**below(OBJECTS), "a.txt": b"ONE", "new.txt": b"new"}
    del changed["empty"]
    assert content(after) == changed
    assert content(before) == below(OBJECTS)  # who still reads it sees no change
    assert (after / "sub/b.txt").samefile(before / "sub/b.txt")


def test_where_files_cannot_be_linked_they_are_copied(
    bucket: Bucket, fetched: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    bucket.put_all(OBJECTS)
    mirror(listed(bucket.url("x")), AGAIN)
    bucket.put_all({"x/new.txt": b"new"})
    new = listed(bucket.url("x"))
    fetched()
    assert content(mirror(new, AGAIN)) == {**below(OBJECTS), "new.txt": b"new"}
    assert fetched() == ["new.txt"]


def change(bucket: Bucket, how: str) -> None:
    if how == "gone":
        bucket.remove("x/a.txt")
    else:
        bucket.put_all({"x/a.txt": {"same size": b"ONE", "shorter": b"o", "empty": b""}[how]})


@pytest.mark.parametrize("how", ["gone", "same size", "shorter", "empty"])
def test_an_object_that_is_another_one_than_was_listed_is_refused(bucket: Bucket, how: str) -> None:
    bucket.put_all(OBJECTS)
    listing = listed(bucket.url("x"))
    change(bucket, how)
    what = "gone" if how == "gone" else "changed"
    with pytest.raises(
        DataError, match=f"x/a.txt: {what} since it was listed; look again: {AGAIN}"
    ):
        mirror(listing, AGAIN)
    assert not whole(listing).exists()
    change(bucket, "same size")
    assert mirror(listed(bucket.url("x")), AGAIN).joinpath("a.txt").read_bytes() == b"ONE"


def test_an_object_without_checksum_that_changes_between_two_blocks_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "BLOCK_BYTES", 2**22)
    pieces = b"a" * 5 * 2**20, b"b" * 5 * 2**20
    bucket.put_in_pieces("x/large", *pieces)
    listing = listed(bucket.url("x"))
    assert listing.objects[0].checksum == ""
    read, calls = Fetcher._read, []

    def changing(self: Fetcher, facts: Any, start: int, end: int) -> bytes:
        calls.append(start)
        if len(calls) == 2:
            bucket.put_in_pieces("x/large", *reversed(pieces))
        return read(self, facts, start, end)

    with monkeypatch.context() as patch:
        patch.setattr(Fetcher, "_read", changing)
        with pytest.raises(DataError, match="x/large: changed since it was listed"):
            mirror(listing, AGAIN)
    assert not whole(listing).exists()
    root = mirror(listed(bucket.url("x")), AGAIN)
    assert content(root) == {"large": b"".join(reversed(pieces))}


def damage(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    read, calls = Fetcher._read, []

    def damaging(self: Fetcher, facts: Any, start: int, end: int) -> bytes:
        calls.append(start)
        block = read(self, facts, start, end)
        return bytes([block[0] ^ 1]) + block[1:] if len(calls) <= times else block

    monkeypatch.setattr(Fetcher, "_read", damaging)


def test_what_arrives_damaged_is_fetched_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_all({"x/a.txt": b"one"})
    listing = listed(bucket.url("x"))
    damage(monkeypatch, 1)
    assert content(mirror(listing, AGAIN)) == {"a.txt": b"one"}


def test_what_stays_damaged_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put_all({"x/a.txt": b"one"})
    listing = listed(bucket.url("x"))
    damage(monkeypatch, 2)
    with pytest.raises(DataError, match=r"a.txt: arrives damaged: its md5 is another one"):
        mirror(listing, AGAIN)
    assert not whole(listing).exists()
    assert content(mirror(listing, AGAIN)) == {"a.txt": b"one"}


def test_a_tag_of_what_kms_encrypts_is_taken_for_no_checksum(bucket: Bucket) -> None:
    """This server gives an MD5 in any case, so the listing is made to have another."""
    key = {"Bucket": bucket.name, "Key": "x/a.txt", "Body": b"one"}
    bucket.client.put_object(**key, ServerSideEncryption="aws:kms")
    listing = listed(bucket.url("x"))
    other = replace(listing, objects=[replace(listing.objects[0], checksum=f"md5:{'0' * 32}")])
    assert content(mirror(other, AGAIN)) == {"a.txt": b"one"}
    bucket.client.put_object(**key, ServerSideEncryption="AES256")
    with pytest.raises(DataError, match="arrives damaged"):
        mirror(replace(other, url=f"{other.url}/"), AGAIN)


def spoil(root: Path, how: str) -> None:
    if how == "removed":
        (root / "a.txt").unlink()
    elif how == "cut":
        (root / "a.txt").chmod(0o644)
        (root / "a.txt").write_bytes(b"on")
    else:
        (root / "sub/stray.txt").write_bytes(b"stray")


@pytest.mark.parametrize("how", ["removed", "cut", "stray"])
def test_a_copy_that_somebody_changed_is_mended(
    bucket: Bucket, fetched: Callable[[], list[str]], how: str
) -> None:
    bucket.put_all(OBJECTS)
    listing = listed(bucket.url("x"))
    root = mirror(listing, AGAIN)
    spoil(root, how)
    fetched()
    assert mirror(listing, AGAIN) == root
    assert content(root) == below(OBJECTS)
    assert fetched() == ([] if how == "stray" else ["a.txt"])


def test_two_who_want_the_same_copy_fetch_it_once(
    bucket: Bucket, fetched: Callable[[], list[str]]
) -> None:
    bucket.put_all(OBJECTS)
    listing = listed(bucket.url("x"))
    fetched()
    roots: list[Path] = []
    wanting = [
        threading.Thread(target=lambda: roots.append(mirror(listing, AGAIN))) for _ in range(3)
    ]
    for thread in wanting:
        thread.start()
    for thread in wanting:
        thread.join()
    assert len(roots) == 3
    assert len(set(roots)) == 1
    assert len(fetched()) == 3


def test_a_path_that_is_no_listing_is_read_where_it_lies(tmp_path: Path) -> None:
    with local_copy(tmp_path / "data") as path:
        assert path == tmp_path / "data"


def test_a_fault_in_a_copy_is_said_of_the_url(bucket: Bucket) -> None:
    bucket.put_all(OBJECTS)
    listing = listed(bucket.url("x"))
    file = paths.objects("photos")
    file.parent.mkdir(parents=True)
    listing.write(file)
    with pytest.raises(DataError) as caught, local_copy(file) as path:
        raise DataError(f"{(path / 'a.txt').as_posix()}: not readable")
    assert str(caught.value) == f"{bucket.url('x')}/a.txt: not readable"
    change(bucket, "gone")
    shutil.rmtree(whole(listing))
    with pytest.raises(DataError, match="repro -f list_objects@photos"), local_copy(file):
        pass


def test_only_copies_of_listings_in_use_are_kept(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put_all(OBJECTS)
    old = listed(bucket.url("x"))
    before = mirror(old, AGAIN)
    bucket.put_all({"x/new.txt": b"new"})
    new = listed(bucket.url("x"))
    after = mirror(new, AGAIN)
    (tmp_path / "work/objects").mkdir(parents=True)
    new.write(tmp_path / "work/objects/x.jsonl")
    left = before.with_name(f"{'0' * 16}.begun")
    for folder in (left, before.with_name("parts")):
        folder.mkdir()
    found = {path.name for path in unneeded(tmp_path)}
    assert found == {before.name, left.name, "parts"}
    after.rename(after.with_suffix(".begun"))  # one that is on its way, stopped
    assert {path.name for path in unneeded(tmp_path)} == {before.name, left.name}
    (tmp_path / "work/objects/x.jsonl").unlink()
    assert after.with_suffix(".begun").name in {path.name for path in unneeded(tmp_path)}


def test_a_store_that_cannot_be_reached_leaves_nothing_half_there(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_all(OBJECTS)
    listing = listed(bucket.url("x"))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="no credentials"):
        mirror(listing, AGAIN)
    assert not whole(listing).exists()
