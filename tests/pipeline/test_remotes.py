"""What one clone has computed, another restores from a remote: nothing runs twice."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.files import DIGESTS, verify_digests
from plumbline.reproduction.lock import read_lock
from tests.pipeline.checkout import Checkout

SECRET = "test"


def add_remote(checkout: Checkout, url: str, endpoint: str | None = None) -> None:
    """Set a default remote in config.local, which clones do not see."""
    checkout.run("dvc", "remote", "add", "--local", "-d", "team", url)
    settings = {"endpointurl": endpoint, "access_key_id": SECRET, "secret_access_key": SECRET}
    for name, value in settings.items() if endpoint else ():
        assert value is not None
        checkout.run("dvc", "remote", "modify", "--local", "team", name, value)


def second_clone(own: Checkout, folder: Path) -> Checkout:
    """What a colleague has: the commit, and nothing of the cache."""
    own.run("git", "clone", "-q", str(own.folder), str(folder))
    clone = Checkout(folder)
    assert not (folder / "models" / "tasks").exists()
    return clone


def assert_complete(clone: Checkout) -> None:
    """Every output is there with the bytes of the lock and of its own list of digests."""
    assert json.loads(clone.run("dvc", "status", "--json").stdout) == {}
    folders = 0
    for stage in read_lock(clone.folder / "dvc.lock").values():
        for out in stage.outs:
            assert (clone.folder / out).exists(), out
            if (clone.folder / out / DIGESTS).is_file():
                verify_digests(clone.folder / out)
                folders += 1
    assert folders >= 8
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_a_second_clone_restores_everything_from_a_folder(own: Checkout, tmp_path: Path) -> None:
    add_remote(own, str(tmp_path / "remote"))
    own.run("dvc", "push", "--run-cache")
    clone = second_clone(own, tmp_path / "clone")
    add_remote(clone, str(tmp_path / "remote"))
    clone.run("dvc", "pull", "--run-cache")
    assert_complete(clone)
    assert clone.stages_run("dvc", "repro") == []


@pytest.fixture
def s3() -> Iterator[tuple[str, str]]:
    """Url and endpoint of a bucket on a server of this process."""
    pytest.importorskip("dvc_s3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        bucket = f"plumbline-{uuid.uuid4().hex[:8]}"
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=SECRET,
            aws_secret_access_key=SECRET,
        )
        client.create_bucket(Bucket=bucket)
        yield f"s3://{bucket}/project", endpoint
    finally:
        server.stop()


def test_a_second_clone_restores_everything_from_s3(
    own: Checkout, tmp_path: Path, s3: tuple[str, str]
) -> None:
    add_remote(own, *s3)
    own.run("dvc", "push", "--run-cache")
    clone = second_clone(own, tmp_path / "clone")
    add_remote(clone, *s3)
    assert clone.stages_run("dvc", "repro", "--pull") == []
    assert_complete(clone)


@pytest.mark.slow
def test_without_a_lock_only_the_evaluations_run_again(own: Checkout, tmp_path: Path) -> None:
    """Their figures are in git and not in the cache, so the run cache cannot restore them."""
    add_remote(own, str(tmp_path / "remote"))
    own.run("dvc", "push", "--run-cache")
    clone = second_clone(own, tmp_path / "clone")
    add_remote(clone, str(tmp_path / "remote"))
    (clone.folder / "dvc.lock").unlink()
    run = clone.stages_run("dvc", "repro", "--pull")
    assert run == ["evaluate_alignment@image", "evaluate_model@vqa"]
    assert_complete(clone)  # git sees no change: the lock has come back byte for byte
