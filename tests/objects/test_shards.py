"""Shards of a cache in an object store: put there once, copied when they are needed, checked."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.batch import Batch, finish
from plumbline.errors import ConfigError, DamagedInputError
from plumbline.files import read_digests
from plumbline.kinds.classification.settings import ClassificationTaskConfig
from plumbline.kinds.classification.train import build
from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.order import SampleShards, bringing_ahead
from plumbline.objects.shards import LIMIT, ShardStore
from plumbline.training.task import JobContext
from tests.objects.conftest import Bucket
from tests.tiny import VIT, clip, make_cache, picture, write_rows

ROWS = [
    {"sample_id": str(at), "image": picture(at), "label": ("cat", "dog")[at % 2]}
    for at in range(24)
]
SETTINGS: dict[str, Any] = {"decoded_gb": 0.0, "shard_mb": 3e-3}


def cache_of(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> TrainingCache:
    (folder / "clean").mkdir(parents=True)
    write_rows(folder / "clean", "train", rows)
    opened: TrainingCache = make_cache(folder, SETTINGS | settings)
    return opened


def objects(bucket: Bucket) -> dict[str, int]:
    found = bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", [])
    return {each["Key"]: each["Size"] for each in found}


def here() -> set[str]:
    return {path.name for path in Path(".plumbline/objects/.shards").glob("[!.]*")}


def test_shards_of_both_media_are_put_there_and_read_from_there(
    bucket: Bucket, tmp_path: Path
) -> None:
    for name, rows, count in (("image", ROWS, 24), ("audio", SOUNDS, 6)):
        near = cache_of(tmp_path / name / "near", rows, **KINDS[name])
        far = cache_of(tmp_path / name / "far", rows, **KINDS[name], shards_at=bucket.url(name))
        assert not list(far.folder.glob("*.shard"))
        facts = far.facts["image_shards"] if name == "image" else far.facts["audio"]["shards"]
        assert len(facts["starts"]) == len(facts["digests"]) > 1
        local = {digest for file, digest in near.digests.items() if file.endswith(".shard")}
        assert set(facts["digests"]) == local
        assert {key for key in objects(bucket) if key.startswith(name)} == {
            f"{name}/{digest}" for digest in facts["digests"]
        }
        read = (lambda c, n: c.images[n]) if name == "image" else (lambda c, n: c.audio(n))
        for number in range(count):
            assert np.array_equal(read(far, number), read(near, number))


def pixels_of(batch: Batch) -> bytes:
    found: bytes = finish(batch)["inputs"]["pixel_values"].numpy().tobytes()
    return found


SOUNDS = [{"sample_id": str(at), "audio": clip(at)} for at in range(6)]
KINDS: dict[str, dict[str, Any]] = {"image": {}, "audio": {"sample_rate": 8000}}


def test_what_is_there_already_is_not_put_again(bucket: Bucket, tmp_path: Path) -> None:
    cache_of(tmp_path / "one", ROWS, shards_at=bucket.url("s"))
    keys = objects(bucket)
    first = bucket.client.head_object(Bucket=bucket.name, Key=next(iter(keys)))["LastModified"]
    cache_of(tmp_path / "two", ROWS, shards_at=bucket.url("s"))
    assert objects(bucket) == keys
    again = bucket.client.head_object(Bucket=bucket.name, Key=next(iter(keys)))["LastModified"]
    assert again == first
    assert read_digests(tmp_path / "one/cache") == read_digests(tmp_path / "two/cache")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_the_same_from_a_store_with_any_workers(
    bucket: Bucket, tmp_path: Path, workers: int
) -> None:
    def batches(cache: TrainingCache, workers: int) -> list[tuple[list[int], bytes]]:
        job = build(
            JobContext(cache=cache, seed=0),
            ClassifierConfig.model_validate({"encoder": VIT}),
            ClassificationTaskConfig.model_validate({"inputs": {"modality": "image"}}),
        )
        config = LoaderConfig(batch_size=5, workers=workers, shuffle_shards=2)
        loader = Loader(job.train, job.task.collate, config, seed=1, shuffle=True)
        return [(batch["sample_index"].tolist(), pixels_of(batch)) for batch in loader.batches(0)]

    near = cache_of(tmp_path / "near", ROWS)
    far = cache_of(tmp_path / "far", ROWS, shards_at=bucket.url("s"))
    assert batches(far, workers) == batches(near, 0)


def test_the_disk_holds_no_more_than_its_limit(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = cache_of(tmp_path / "far", ROWS, shards_at=bucket.url("s"))
    whole = [far.images[number] for number in range(24)]
    sizes = objects(bucket)
    assert len(here()) == len(sizes)
    for path in Path(".plumbline/objects/.shards").glob("[!.]*"):
        path.unlink()
    monkeypatch.setenv(LIMIT, str(2.5 * max(sizes.values()) / 2**30))
    opened = TrainingCache(far.folder)
    for number in range(24):
        assert np.array_equal(opened.images[number], whole[number])
        assert len(here()) <= 2
    # What went comes again.
    assert np.array_equal(TrainingCache(far.folder).images[0], whole[0])


@pytest.mark.parametrize("limit", ["none", "0", "-1", "nan"])
def test_a_limit_that_is_none_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str
) -> None:
    far = cache_of(tmp_path / "far", ROWS, shards_at=bucket.url("s"))
    monkeypatch.setenv(LIMIT, limit)
    with pytest.raises(ConfigError, match=f"{LIMIT} = '{limit}' is no size in GiB above 0"):
        TrainingCache(far.folder).images  # noqa: B018


def test_a_shard_that_is_gone_or_another_is_told(bucket: Bucket, tmp_path: Path) -> None:
    far = cache_of(tmp_path / "far", ROWS, shards_at=bucket.url("s"))
    first, second = far.facts["image_shards"]["digests"][:2]
    bucket.remove(f"s/{first}")
    bucket.put_all({f"s/{second}": b"another"})
    with pytest.raises(DamagedInputError, match=f"{first}: gone, then put the shards there again"):
        far.images[0]
    at = far.facts["image_shards"]["starts"][1]
    with pytest.raises(DamagedInputError, match=f"{second}: another one than was put there"):
        far.images[at]
    assert not here()


def test_a_bucket_that_is_not_there_ends_the_stage_in_one_line(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(ConfigError, match="s3://no-such-bucket"):
        cache_of(tmp_path / "far", ROWS, shards_at="s3://no-such-bucket/s")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hf://datasets/me/x", "not written to hf://"),
        ("/data/shards", "a URL of s3://, gs://"),
        ("s3://key:secret@bucket/x", "something before an @"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(url: str, words: str) -> None:
    from plumbline.tokenization.settings import TokenizeConfig

    with pytest.raises(ValueError, match=words):
        TokenizeConfig(shards_at=url)


def test_a_place_for_shards_that_nothing_is_put_into_is_refused() -> None:
    from plumbline.tokenization.settings import TokenizeConfig

    with pytest.raises(ValueError, match="shards_at 's3://b/x' and decoded_gb null contradict"):
        TokenizeConfig(shards_at="s3://b/x", decoded_gb=None)


def test_a_process_that_is_forked_asks_over_a_connection_of_its_own(
    bucket: Bucket, tmp_path: Path
) -> None:
    store = ShardStore(bucket.url("s"))
    (tmp_path / "a").write_bytes(b"shard")
    digest = store.put(tmp_path / "a")
    if (pid := os.fork()) == 0:
        os._exit(0 if store.bring(digest).read_bytes() == b"shard" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert here() == {digest}


def test_a_shard_that_others_make_room_of_comes_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = cache_of(tmp_path / "far", ROWS, shards_at=bucket.url("s"))
    known = far.images[0]
    opened, real, taken = TrainingCache(far.folder), ShardStore.bring, []

    def bring(self: ShardStore, digest: str) -> Path:
        path = real(self, digest)
        if len(taken) < 2:
            taken.append(path)
            path.unlink()  # between the answer and its use
        return path

    monkeypatch.setattr(ShardStore, "bring", bring)
    assert np.array_equal(opened.images[0], known)
    assert len(taken) == 2


def test_processes_that_share_too_small_a_disk_read_the_same(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = cache_of(tmp_path / "near", ROWS)
    far = cache_of(tmp_path / "far", ROWS, shards_at=bucket.url("s"))
    monkeypatch.setenv(LIMIT, str(1.5 * max(objects(bucket).values()) / 2**30))
    children = []
    for seed in range(3):
        if (pid := os.fork()) == 0:
            opened, order = TrainingCache(far.folder), np.random.default_rng(seed)
            numbers = [int(n) for _ in range(3) for n in order.permutation(24)]
            same = all(np.array_equal(opened.images[n], near.images[n]) for n in numbers)
            os._exit(0 if same else 1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert len(here()) <= 2


def bringing(shards: list[int], batch: int, window: int) -> tuple[list[int], Callable[[], Any]]:
    brought: list[int] = []
    plan = [np.arange(at, at + batch) for at in range(0, len(shards), batch)]
    return brought, lambda: bringing_ahead(
        SampleShards(np.array(shards), brought.append), plan, window
    )


def test_shards_come_a_window_ahead_of_the_batches_that_read_them() -> None:
    shards = [0, 1, 0, 1, 2, 3, 3, 2, 4, 5, 4, 5, 6, 6]
    brought, opened = bringing(shards, 2, 2)
    with opened() as step:
        wait_for(brought, 2)
        assert sorted(brought) == [0, 1]
        step()  # the first batch reads both
        wait_for(brought, 4)
        assert sorted(brought) == [0, 1, 2, 3]
        step()
        step()
        wait_for(brought, 6)
        assert sorted(brought) == [0, 1, 2, 3, 4, 5]
    assert len(brought) == 6  # the rest is not asked for any more


def wait_for(brought: list[int], count: int) -> None:
    import time

    until = time.monotonic() + 30
    while len(brought) < count and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)  # for one too many


def test_nothing_is_brought_where_shards_are_at_hand() -> None:
    with bringing_ahead(SampleShards(np.zeros(4, np.int64)), [np.arange(4)], 1) as step:
        step()
    with bringing_ahead(None, [np.arange(4)], 1) as step:
        step()
