"""Outputs do not depend on who runs a stage: locale, umask, time zone, folders, order of files.

The same stages run under a plain environment and under one in which everything is otherwise; every
file of every output is compared byte by byte.
"""

import csv
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline.checkout import ENVIRONMENT, Checkout, make_checkout

KEY = "words"
LABELS = ("größe", "猫", "=x")
OUTPUTS = ("work", "models", "exports", "metrics", "report")
DATA_STAGES = ("prepare", "validate", "detect_shapes", "tokenize_text")
TASK_STAGES = ("finetune", "evaluate_model", "export_model", "report")

REVERSED = """
import os
scandir, listdir = os.scandir, os.listdir

class Reversed:
    def __init__(self, path="."):
        with scandir(path) as entries:
            self.entries = iter(sorted(entries, key=lambda e: os.fsencode(e.name), reverse=True))
    def __iter__(self):
        return self.entries
    def __next__(self):
        return next(self.entries)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        pass
    def close(self):
        pass

os.scandir = Reversed
os.listdir = lambda path=".": sorted(listdir(path), reverse=True)
"""
"""As `sitecustomize`: folders are listed in the other order than by name."""


def dataset() -> dict[str, Any]:
    return {
        "path": f"data/{KEY}",
        "weights": "data/.gitkeep",
        "prepare": {
            "source": "csv",
            "files": "*.csv",
            "splits": {split: f"{split}.csv" for split in ("train", "val", "test")},
            "columns": {"text": "text", "label": "label"},
        },
        "validate": {
            "views": {"classify": ["text", "label"]},
            "split": {"seed": 0, "val": 0.1, "test": 0.1, "min_rows": 2},
        },
        "detect_shapes": {"min_train_rows": 2},
        "tokenize": {"tokenizer": {"kind": "char", "vocab_size": 300, "min_frequency": 1}},
    }


def task() -> dict[str, Any]:
    encoder = {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "mlp_width": 32}
    inputs = {"modality": "text", "column": "text", "max_tokens": 32, "word_dropout": 0.0}
    return {
        "kind": "classification",
        "data": KEY,
        "start": f"work/cache/{KEY}",
        "weights": "data/.gitkeep",
        "train": {
            "freeze": [],
            "model": {
                "encoder": {
                    **encoder,
                    "pretrained": None,
                    "max_tokens": 34,
                    "dropout": 0.0,
                    "pooling": "mean",
                },
                "head_dropout": 0.0,
                "num_classes": {},
            },
            "task": {
                "inputs": inputs,
                "loss": "cross_entropy",
                "label_smoothing": 0.0,
                "class_weights": "none",
            },
            "loader": {"batch_size": 16, "workers": 2},
            "trainer": {"epochs": 2, "optim": {"lr": 3e-3}},
        },
        "evaluate": {"split": "test", "batch_size": 64},
    }


def write_rows(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, count in (("train", 60), ("val", 18), ("test", 18)):
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for n in range(count):
                rows.writerow([f"{split} {n} äöü 犬 {LABELS[n % 3]}", LABELS[n % 3]])


def write_settings(checkout: Checkout) -> None:
    conf = checkout.folder / "conf"
    groups = {
        f"/loader@{KEY}.train.loader": "default",
        f"/trainer@{KEY}.train.trainer": "default",
        f"/optim@{KEY}.train.trainer.optim": "adamw",
        f"/export@{KEY}.export": "default",
    }
    defaults: list[Any] = [{group: name} for group, name in groups.items()]
    chosen = {"datasets": [KEY], "align": [], "tasks": [KEY]}
    files = {
        f"datasets/{KEY}": {KEY: dataset()},
        f"tasks/{KEY}": {"defaults": [*defaults, "_self_"], KEY: task()},
        f"experiment/{KEY}": {
            "defaults": [{f"override /{group}": names} for group, names in chosen.items()],
            "threads": 1,
        },
    }
    for name, content in files.items():
        head = "# @package _global_\n" if name.startswith("experiment") else ""
        (conf / f"{name}.yaml").write_text(head + yaml.safe_dump(content), encoding="utf-8")
    checkout.replace("conf/config.yaml", "experiment: smoke", f"experiment: {KEY}")
    checkout.run(sys.executable, "-m", "stages.check_params", "--write")


def foreign_locale(folder: Path) -> dict[str, str]:
    """A locale whose encoding is not UTF-8, made here where the system has its sources."""
    folder.mkdir()
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")],
        capture_output=True,
        check=False,
    )
    if made.returncode == 0:
        return {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}
    return {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def environment(folder: Path, **other: str) -> dict[str, str]:
    kept = {n: v for n, v in ENVIRONMENT.items() if not n.startswith(("LC_", "LANG", "PYTHON"))}
    return {**kept, "PYTHONPATH": f"{folder}/src", "LC_ALL": "C.UTF-8", **other}


@pytest.fixture(scope="module")
def encoding_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return foreign_locale(tmp_path_factory.mktemp("locale") / "made")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = make_checkout(tmp_path_factory.mktemp("plain") / "checkout")
    write_rows(checkout.folder / "data" / KEY)
    write_settings(checkout)
    return checkout


@pytest.fixture(scope="module")
def odd(
    plain: Checkout, tmp_path_factory: pytest.TempPathFactory, encoding_of: dict[str, str]
) -> tuple[Checkout, dict[str, str]]:
    """The same project in a folder, and an environment, with other everything."""
    place = tmp_path_factory.mktemp("odd")
    folder = place / "größe [x] 'q' $HOME"
    subprocess.run(["cp", "-r", str(plain.folder), str(folder)], check=True)
    for name in ("tmp ö", "home ö", "site"):
        (place / name).mkdir()
    (place / "site/sitecustomize.py").write_text(REVERSED, encoding="utf-8")
    other = environment(
        folder,
        **encoding_of,
        PYTHONPATH=f"{place}/site:{folder}/src",
        TMPDIR=str(place / "tmp ö"),
        HOME=str(place / "home ö"),
        TZ="Pacific/Kiritimati",
        PYTHONHASHSEED="7",
    )
    return Checkout(folder), other


def run_stages(
    checkout: Checkout, environment: dict[str, str], stages: Sequence[str], umask: int
) -> None:
    for stage in stages:
        key = [] if stage == "report" else [KEY]
        done = subprocess.run(
            [sys.executable, "-m", f"stages.{stage}", *key],
            cwd=checkout.folder,
            env=environment,
            capture_output=True,
            umask=umask,
            check=False,
        )
        assert done.returncode == 0, (stage, done.stderr.decode(errors="replace"))


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in OUTPUTS:
        for path in sorted((folder / name).rglob("*")):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def modes(folder: Path) -> set[tuple[str, str]]:
    paths = [path for name in ("work", "models", "exports") for path in (folder / name).rglob("*")]
    written = [path for path in paths if path.name != ".gitkeep"]
    return {("d" if p.is_dir() else "f", oct(p.stat().st_mode & 0o777)) for p in written}


def compare(plain: Checkout, odd: tuple[Checkout, dict[str, str]], stages: Sequence[str]) -> None:
    checkout, other = odd
    run_stages(plain, environment(plain.folder, TZ="UTC", PYTHONHASHSEED="1"), stages, 0o022)
    run_stages(checkout, other, stages, 0o077)
    expected, found = dict(contents(plain.folder)), dict(contents(checkout.folder))
    assert expected.keys() == found.keys()
    assert [name for name, content in expected.items() if content != found[name]] == []
    # Nor a session of some library's telemetry; torch makes a folder there for what it compiles.
    assert [p for p in Path(other["TMPDIR"]).rglob("*") if p.is_file()] == []


def test_the_environment_is_another_one(odd: tuple[Checkout, dict[str, str]]) -> None:
    checkout, other = odd
    ask = "import locale, os; print(locale.getencoding(), os.listdir('stages')[0])"
    done = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=checkout.folder,
        env=other,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    encoding, first = done.stdout.split()
    assert encoding.lower().replace("-", "") != "utf8"
    assert first == max(path.name for path in (checkout.folder / "stages").iterdir())


def test_data_stages_give_the_same_bytes_whoever_runs_them(
    plain: Checkout, odd: tuple[Checkout, dict[str, str]]
) -> None:
    compare(plain, odd, DATA_STAGES)
    assert LABELS[1] in (plain.folder / f"work/shapes/{KEY}/shapes.json").read_text("utf-8")


@pytest.mark.slow
def test_training_evaluation_bundle_and_report_are_the_same_bytes_whoever_runs_them(
    plain: Checkout, odd: tuple[Checkout, dict[str, str]]
) -> None:
    compare(plain, odd, (*DATA_STAGES, *TASK_STAGES))
    assert modes(plain.folder) == {("d", "0o755"), ("f", "0o644")}
    assert modes(odd[0].folder) == {("d", "0o700"), ("f", "0o600")}
