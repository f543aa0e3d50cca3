"""From a bucket to a training cache through DVC, without a network, after changes, after a kill."""

import csv
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from plumbline import paths
from plumbline.files import sha256_file, verify_digests
from plumbline.objects.mirror import home_of
from tests.objects.conftest import Bucket
from tests.pipeline.checkout import ENVIRONMENT, Checkout, make_checkout

NOWHERE = "http://127.0.0.1:9"
STAGES = [
    f"{stage}@mine"
    for stage in ("list_objects", "prepare", "validate", "detect_shapes", "tokenize_text")
]


def table(rows: int) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["text", "label"])
    writer.writerows((f"number {n} is {'odd' if n % 2 else 'even'}", n % 2) for n in range(rows))
    return buffer.getvalue().encode()


def environment(endpoint: str) -> Mapping[str, str]:
    own = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {**ENVIRONMENT, **own, "AWS_ENDPOINT_URL": endpoint}


def data_stages(checkout: Checkout, *command: str) -> list[str]:
    """Of what DVC runs, the stages of the dataset, in order."""
    ran = checkout.stages_run("dvc", "repro", *command)
    return [stage for stage in ran if "@" in stage]


@pytest.mark.slow
def test_a_dataset_in_a_bucket_goes_through_dvc(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put_all({"x/data.csv": table(200), "x/README.md": b"about it"})
    bucket.put_all({"x/dvc.yaml": b"stages: {"})  # of somebody else, and not of this pipeline
    checkout = make_checkout(tmp_path / "project")
    here = Checkout(checkout.folder, environment(bucket.endpoint))
    away = Checkout(checkout.folder, environment(NOWHERE))
    here.replace("conf/config.yaml", "experiment: smoke", "experiment: null")
    here.run("plumbline", "import", bucket.url("x"), "--name", "mine")
    here.replace("conf/config.yaml", "experiment: null", "experiment: mine")
    here.run("plumbline", "params")
    target = "tokenize_text@mine"
    assert data_stages(here, target) == STAGES
    verify_digests(checkout.folder / paths.cache("mine"))
    listing = checkout.folder / paths.objects("mine")
    first = sha256_file(listing)
    checkout.commit("Read it")

    # Nothing has changed: nothing runs, and nobody is asked.
    assert data_stages(away, target) == []
    # What is read of it has changed, the listing has not: from the copy.
    away.replace("conf/datasets/mine.yaml", "source: csv", "source: csv\n    quotes: false")
    away.run("plumbline", "params")
    assert data_stages(away, target)[0] == "prepare@mine"

    # Another object: not seen before somebody looks, and then at once.
    bucket.put_all({"x/data.csv": table(230)})
    assert data_stages(here, target) == []
    assert "list_objects@mine" in here.stages_run("dvc", "repro", "-f", "list_objects@mine")
    assert sha256_file(listing) != first
    assert data_stages(here, target) == STAGES[1:]
    # Looked again, and all is as it was.
    assert "list_objects@mine" in here.stages_run("dvc", "repro", "-f", "list_objects@mine")
    assert data_stages(here, target) == []

    # The listing of a commit comes back with the commit, and its copy is still there.
    here.run("git", "stash", "-q")
    here.run("dvc", "checkout", "list_objects@mine")
    assert sha256_file(listing) == first

    # No secret, no address of a server in what git has.
    tracked = here.run("git", "grep", "-nI", "-e", bucket.endpoint, "-e", "AWS_SECRET", check=False)
    assert [line for line in tracked.stdout.splitlines() if "conf/" in line] == []


def list_texts(bucket: Bucket, number: int) -> None:
    """Make the working folder a project whose dataset is texts in a bucket, and list them."""
    bucket.put_all({f"x/{n:03d}.txt": b"text %d\n" % n * 2000 for n in range(number)})
    dataset = "{path: work/objects/mine.jsonl, prepare: {source: text, unit: file, files: '*.txt'}}"
    Path("params.yaml").write_text(
        f"objects: {{mine: {{url: '{bucket.url('x')}'}}}}\ndatasets: {{mine: {dataset}}}\n", "utf-8"
    )
    run("list_objects")


def command(stage: str) -> list[str]:
    return [sys.executable, "-m", f"stages.{stage}", "mine"]


def run(stage: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(stage), capture_output=True, text=True, check=True, env=here())


def here() -> dict[str, str]:
    """The environment, with the code of this checkout."""
    from tests.pipeline.checkout import ROOT

    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PLUMBLINE_TRACKING": "off"}


def asked(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Names of the objects that were fetched since the last call."""
    lines = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
    caplog.clear()
    return [
        line.split(" HTTP")[0].rpartition("/")[2]
        for line in lines
        if "GET " in line and ".txt" in line
    ]


@pytest.mark.slow
def test_a_prepare_that_is_killed_while_it_fetches_goes_on_where_it_was(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    list_texts(bucket, 300)
    caplog.set_level(logging.INFO, "werkzeug")
    home = home_of(bucket.url("x"))
    killed = subprocess.Popen(command("prepare"), env=here(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(home.glob("*.begun/*.txt"))) < 40:
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(0.5)  # what it had asked for has been answered
    there = {path.name for path in home.glob("*.begun/*.txt")}
    assert 40 <= len(there) < 300
    assert not paths.raw("mine").exists()
    asked(caplog)
    said = run("prepare").stderr
    assert f"fetching {300 - len(there):,} of 300 objects" in said
    assert set(asked(caplog)).isdisjoint(there)
    resumed = {path.name: sha256_file(path) for path in paths.raw("mine").iterdir()}
    shutil.rmtree(home)
    shutil.rmtree(paths.raw("mine"))
    run("prepare")
    assert {path.name: sha256_file(path) for path in paths.raw("mine").iterdir()} == resumed


def test_an_object_that_changed_ends_the_stage_in_one_line_and_leaves_no_rows(
    bucket: Bucket,
) -> None:
    list_texts(bucket, 20)
    bucket.put_all({"x/012.txt": b"another"})
    done = subprocess.run(command("prepare"), capture_output=True, text=True, env=here())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {bucket.url('x')}/012.txt: changed since it was listed; look again: plumbline "
        "repro -f list_objects@mine"
    )
    assert "Traceback" not in done.stderr
    assert not paths.raw("mine").exists()
    said = run("list_objects").stderr
    assert said == (
        "list_objects mine: 20 objects, 0.3 MB, 1 changed since the last look; see "
        "work/objects/mine.jsonl\n"
    )
    said = run("prepare").stderr.splitlines()
    # What had arrived when the other one was refused is not fetched again.
    assert re.match(rf"{bucket.url('x')}: fetching \d of 20 objects, 0\.\d MB, into ", said[0])
    assert said[1:] == ["prepare mine: 20 rows; see work/raw/mine/account.json"]
