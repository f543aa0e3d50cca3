"""Every layout is the same dataset in a bucket as in a folder: settings, rows and account."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from plumbline import paths
from plumbline.cli.main import call
from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.files import sha256_file
from plumbline.params import write_params
from plumbline.running.checks import compose_run
from plumbline.stages import list_objects, prepare
from tests.importing import layouts
from tests.objects.conftest import Bucket
from tests.pipeline.checkout import ROOT

LAYOUTS: dict[str, Callable[[Path], None]] = {
    "class folders": layouts.class_folders,
    "media beside a table": layouts.images_and_csv,
    "parquet of a hub": layouts.hub_layout,
    "tar shards": layouts.webdataset,
    "conversations": layouts.messages,
    "tables by split": layouts.split_tables,
    "texts": layouts.plays,
}


@pytest.fixture
def project(working_folder: Path) -> Path:
    shutil.copytree(ROOT / "conf", working_folder / "conf")
    (working_folder / "data").mkdir()
    (working_folder / "data/.gitkeep").touch()
    return working_folder


def put_folder(bucket: Bucket, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.put_all({f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes()})


def rows_of(project: Path, name: str) -> dict[str, str]:
    """Digests of what `prepare` makes under an experiment, but for the settings."""
    write_params(project, compose_yaml(project / "conf", "config", [f"experiment={name}"]))
    prepare.main([name])
    folder = paths.raw(name)
    return {file.name: sha256_file(file) for file in folder.iterdir() if "rows" in file.name} | {
        "account": sha256_file(paths.account(name))
    }


def settings(project: Path, name: str) -> dict[str, object]:
    text = (project / f"conf/datasets/{name}.yaml").read_text(encoding="utf-8")
    found: dict[str, object] = yaml.safe_load(text)[name]
    return found


QUICK = ("class folders", "tables by split")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS if name not in QUICK]


@pytest.mark.parametrize("layout", [*QUICK, *SLOW])
def test_a_dataset_in_a_bucket_is_that_of_a_folder(
    project: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    folder = project / "there"
    LAYOUTS[layout](folder)
    put_folder(bucket, folder, "deep/stored")
    url = bucket.url("deep/stored")
    call(["import", str(folder)])
    said = capsys.readouterr().out
    call(["import", url])
    assert capsys.readouterr().out == said.replace(str(folder), url).replace("there", "stored")
    local, stored = settings(project, "there"), settings(project, "stored")
    assert stored.pop("path") == "work/objects/stored.jsonl"
    assert local.pop("path") == "there"
    assert stored == local
    experiment = yaml.safe_load((project / "conf/experiment/stored.yaml").read_text("utf-8"))
    assert experiment["objects"] == {"stored": {"url": url, "only": [], "anonymous": False}}
    expected = rows_of(project, "there")
    shutil.rmtree(folder)
    write_params(project, compose_yaml(project / "conf", "config", ["experiment=stored"]))
    list_objects.main(["stored"])
    assert rows_of(project, "stored") == expected


def test_one_object_is_imported_as_the_file_that_it_is(project: Path, bucket: Bucket) -> None:
    layouts.split_tables(project / "there")
    file = next((project / "there").rglob("*.tsv"))
    bucket.put_all({"x/mine.tsv": file.read_bytes(), "x/other.tsv": b"a\tb\n1\t2\n"})
    call(["import", bucket.url("x/mine.tsv"), "--dry-run"])
    call(["import", bucket.url("x/mine.tsv")])
    experiment = yaml.safe_load((project / "conf/experiment/mine.yaml").read_text("utf-8"))
    assert experiment["objects"]["mine"]["url"] == bucket.url("x/mine.tsv")
    shutil.copy(ROOT / "dvc.yaml", project)
    params = compose_run(project, "mine", [])  # the listing is one that a stage makes
    write_params(project, params)
    list_objects.main(["mine"])
    prepare.main(["mine"])


def test_a_table_that_names_files_beside_it_is_not_read_alone(
    project: Path, bucket: Bucket
) -> None:
    layouts.images_and_csv(project / "there")
    put_folder(bucket, project / "there", "x")
    with pytest.raises(ConfigError) as caught:
        call(["import", bucket.url("x/captions.csv"), "--image", "file"])
    assert str(caught.value).startswith(bucket.url("x/captions.csv"))


def test_a_copy_is_not_asked_for_twice(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"--copy: of s3://bucket a copy is kept"):
        call(["import", "s3://bucket", "--copy"])


def test_what_is_no_layout_is_said_of_the_url(project: Path, bucket: Bucket) -> None:
    bucket.put_all({"x/a.zip": b"PK"})
    with pytest.raises(ConfigError) as caught:
        call(["import", bucket.url("x")])
    assert str(caught.value).startswith(f"{bucket.url('x')}: a.zip is packed")
