"""A server of S3 in this process, and a store without a network for what no protocol changes."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plumbline.objects import stores
from plumbline.objects.stores import Store


@dataclass(frozen=True)
class Bucket:
    """A bucket of that server."""

    name: str
    endpoint: str
    client: Any

    def url(self, prefix: str = "") -> str:
        return f"s3://{self.name}/{prefix}".rstrip("/")

    def put(self, **objects: bytes) -> None:
        for name, body in objects.items():
            self.client.put_object(Bucket=self.name, Key=name, Body=body)

    def put_all(self, objects: dict[str, bytes]) -> None:
        self.put(**objects)

    def put_in_pieces(self, key: str, *pieces: bytes, **options: str) -> None:
        """As large objects are put: their ETag is no MD5."""
        named = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**named, **options)["UploadId"]
        named |= {"UploadId": upload}
        parts = [
            {
                "PartNumber": number,
                "ETag": self.client.upload_part(**named, PartNumber=number, Body=piece)["ETag"],
            }
            for number, piece in enumerate(pieces, 1)
        ]
        self.client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def aws(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The environment of somebody who may use that server, and no file of this account."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    return s3_server


@pytest.fixture(scope="session")
def client(s3_server: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **keys)


@pytest.fixture
def bucket(aws: str, client: Any) -> Bucket:
    name = f"plumbline-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    return Bucket(name, aws, client)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of fsspec that lies in memory, as a store.

    It stands for what is the same under each protocol; it has no checksums.
    """
    import fsspec

    monkeypatch.setitem(
        stores.STORES, "memory", Store("fsspec", "", credentials="nobody", address="none")
    )
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies lie below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLUMBLINE_OBJECTS", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path
