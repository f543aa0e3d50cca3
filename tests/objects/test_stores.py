"""Which stores there are, and one line for whatever they refuse; credentials stand in no file."""

import subprocess
import sys
from typing import Any

import pytest

from plumbline.config import check_config
from plumbline.errors import ConfigError, DataError
from plumbline.objects import stores
from plumbline.objects.listing import list_objects
from plumbline.objects.settings import ObjectsConfig, ObjectsEntry
from plumbline.objects.stores import STORES, explained, open_store
from plumbline.stages.prepare import PrepareConfig
from tests.objects.conftest import Bucket

SECRET = "hunter2"


def check(**values: object) -> ObjectsConfig:
    sections = {"objects": "objects.photos"}
    return check_config(ObjectsEntry, sections, {"objects": {"photos": values}}).objects


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/a b/é%20+.csv",
        "gs://bucket/prefix/",
        "hf://datasets/owner/name@0123456789/data",
        "hf://datasets/owner/name",
    ],
)
def test_urls_of_the_stores_are_taken(url: str) -> None:
    assert check(url=url).url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/data/photos", "a URL of s3://, gs://, hf:// is expected"),
        ("https://host/data", "a URL of s3://, gs://, hf:// is expected"),
        ("s3://", "a bucket and a prefix are expected"),
        ("s3:///prefix", "a bucket and a prefix are expected"),
        ("s3://bucket/a?X-Amz-Signature=0", "without ? and #: what is signed ends one day"),
        ("s3://bucket/a//b", "a part of it is empty, . or .."),
        ("s3://bucket/../b", "a part of it is empty, . or .."),
    ],
)
def test_other_urls_are_refused_by_their_key(url: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(url=url)
    assert str(caught.value).startswith("objects.photos.url")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"url": f"s3://AKIA:{SECRET}@bucket/photos"},
        {"url": f"gs://:{SECRET}@bucket/photos"},
        {"url": f"s3://{SECRET}@bucket"},
        {"url": "s3://bucket", "secret": SECRET},
        {"url": "s3://bucket", "key": SECRET},
        {"url": "s3://bucket", "aws_session_token": SECRET},
        {"url": "s3://bucket", "storage_options": {"key": "AKIA", "secret": SECRET}},
        {"url": "s3://bucket", "client_kwargs": {"aws_secret_access_key": SECRET}},
        {"url": "s3://bucket", "endpoint_url": f"http://{SECRET}"},
    ],
    ids=lambda values: str(sorted(values)),
)
def test_credentials_in_settings_are_refused_and_not_repeated(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(**values)
    text = str(caught.value)
    assert "credentials stand in no file of a project" in text
    assert "AWS_ENDPOINT_URL" in text
    assert SECRET not in text
    assert "\n" not in text


def test_a_url_as_the_path_of_a_dataset_is_answered_with_what_to_write() -> None:
    settings = {"path": "s3://AKIA:hunter2@bucket/x", "prepare": {"source": "csv", "columns": {}}}
    with pytest.raises(ConfigError) as caught:
        check_config(PrepareConfig, {"path": "p.path", "prepare": "p.prepare"}, {"p": settings})
    text = str(caught.value)
    assert text.startswith("p.path = 's3://...@bucket/x': a path is expected")
    assert "work/objects/NAME.jsonl" in text


@pytest.mark.parametrize("place", ["/a", "../a", "a/../b", ""])
def test_what_is_taken_lies_below_the_url(place: str) -> None:
    with pytest.raises(ConfigError, match=r"objects\.photos\.only"):
        check(url="s3://bucket", only=[place])


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ConfigError) as caught:
        list_objects(ObjectsConfig(url=f"{scheme}://bucket/x"))
    text = str(caught.value)
    assert text.startswith(f"{scheme}://bucket/x: the package {package} cannot be imported (")
    assert text.endswith(f"; pip install 'plumbline[{scheme}]'")


def test_settings_are_read_without_any_package_of_a_store() -> None:
    code = (
        "import sys, plumbline.stages.prepare, plumbline.stages.list_objects\n"
        "print(sorted({'fsspec', 's3fs', 'gcsfs', 'botocore', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("scheme", STORES)
def test_each_store_is_a_protocol_that_fsspec_knows(scheme: str) -> None:
    from fsspec.registry import known_implementations

    place = known_implementations[scheme]["class"]
    assert place.split(".")[0] == STORES[scheme].package


@pytest.mark.parametrize("scheme", STORES)
def test_the_errors_of_a_store_are_those_of_its_package(scheme: str) -> None:
    pytest.importorskip(STORES[scheme].package)
    told = {kind.__name__ for kind in stores._errors(f"{scheme}://x")}
    assert told == {
        *("OSError", "RuntimeError", "ValueError"),
        *(place.partition(":")[2] for place in STORES[scheme].errors),
    }


def test_the_hub_is_opened_with_nothing_but_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store("hf://datasets/owner/name@0123/data")
    assert store._strip_protocol("hf://datasets/owner/name@0123/data/a.csv") == (
        "datasets/owner/name@0123/data/a.csv"
    )
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="hf://datasets/owner/name: not to be reached"):
        list_objects(ObjectsConfig(url="hf://datasets/owner/name"))


def test_without_credentials_the_line_says_where_they_come_from(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError) as caught:
        list_objects(ObjectsConfig(url=bucket.url("x")))
    text = str(caught.value)
    assert text.startswith(f"{bucket.url('x')}: no credentials (Unable to locate credentials)")
    assert "AWS_PROFILE" in text
    assert "set anonymous: true" in text


def test_what_is_public_is_had_without_credentials(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_all({"x/a": b"1"})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    listing = list_objects(ObjectsConfig(url=bucket.url("x"), anonymous=True))
    assert [one.name for one in listing.objects] == ["a"]
    assert listing.anonymous


def test_a_server_that_does_not_answer_is_named(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setitem(STORES["s3"].options["config_kwargs"], "retries", {"max_attempts": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"not to be reached .*check the network.*AWS_ENDPOINT"):
        list_objects(ObjectsConfig(url="s3://bucket/x"))


def test_an_address_that_is_none_is_an_error_of_one_line(
    aws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(DataError, match=r"the store refuses \(Invalid endpoint: nonsense\)"):
        list_objects(ObjectsConfig(url="s3://bucket/x"))


def test_a_right_that_is_missing_is_told_from_a_bucket_that_is() -> None:
    with (
        pytest.raises(ConfigError, match=r"these credentials have no right to it .*Access Denied"),
        explained("s3://bucket"),
    ):
        raise PermissionError(13, "Access Denied")


def test_an_error_of_ours_or_of_the_code_is_left_as_it_is() -> None:
    for error in (DataError("ours"), AssertionError("a fault"), KeyError("a fault")):
        with pytest.raises(type(error)), explained("s3://bucket"):
            raise error
