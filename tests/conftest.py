"""What all tests share: a quiet environment, and small artefacts that are built once."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# Read when torch and the hub's client are imported, which is later: in fixtures and test modules.
os.environ["PLUMBLINE_TRACKING"] = "off"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DVC_NO_ANALYTICS"] = "true"
# Tiny models are faster on one thread, and float sums depend on the number.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
for _name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
    os.environ.pop(_name, None)

# A shell lets what it starts in the background ignore it, and so all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.training.task import TrainingJob

    MakeJob = Callable[..., TrainingJob]


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs where nothing asks for one: many tests fork, which CUDA does not survive.

    `pytest -m gpu` asks. `PLUMBLINE_TEST_DEVICE=cuda` does too, and trains there what
    tests/training/test_resume_tasks.py trains: every kind, killed anywhere.
    """
    if config.getoption("markexpr") != "gpu" and "PLUMBLINE_TEST_DEVICE" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


LONG = ("pipeline", "faults", "export")
"""Folders of tests whose files take minutes: first, so that none runs alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; workers are given whole files in this order.

    Of those that need the smoke run, one comes first of all and the others last of the long ones:
    they wait for it, and should not have to.
    """
    order = {name: index for index, name in enumerate(LONG, 1)}
    waiting = {item.path for item in items if "reproduced" in getattr(item, "fixturenames", ())}

    def place(item: pytest.Item) -> float:
        if item.path not in waiting:
            return order.get(item.path.parent.name, len(LONG) + 1)
        return 0 if item.path == min(waiting) else len(LONG) + 0.5

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def autograd_without_threads() -> None:
    """Let autograd begin before a test exports a model.

    At its first use it starts a thread for each kind of device that it knows, an export to ONNX
    makes it know more than the processor, and a process with such threads cannot fork trainings.
    """
    if torch := sys.modules.get("torch"):
        torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture
def own_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None is loaded at first, and what a test loads goes with it: fingerprints are of all code."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in _loaded_plugins():
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in _loaded_plugins():
        del sys.modules[name]


def _loaded_plugins() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "plugins"]


SPLIT_SCENES = {"train": (0, 24), "val": (24, 32), "test": (32, 40)}
"""Split -> first and last scene of the tiny dataset."""


@pytest.fixture(scope="session")
def scenes_clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cleaned dataset of 40 drawings, 16 x 16 pixels, two captions and five questions each."""
    from plumbline.sources.scenes import SCHEMA, ScenesConfig, scene_rows

    clean = tmp_path_factory.mktemp("scenes") / "clean"
    clean.mkdir()
    config = ScenesConfig(images=40, image_size=16, captions_per_image=2, faulty_share=0.0)
    for split, (first, end) in SPLIT_SCENES.items():
        rows = [row for index in range(first, end) for row in scene_rows(config, index)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), clean / f"{split}.parquet")
    return clean


@pytest.fixture(scope="session")
def scenes_cache(scenes_clean: Path) -> Path:
    """The training cache of `scenes_clean`; tests only read it."""
    from plumbline.files import write_digests
    from plumbline.shapes.detect import ShapesConfig, detect_shapes
    from plumbline.tokenization.cache import build_cache
    from plumbline.tokenization.settings import TokenizeConfig
    from plumbline.tokenization.tokenizer import TokenizerConfig

    out = scenes_clean.parent / "cache"
    out.mkdir()
    config = TokenizeConfig(tokenizer=TokenizerConfig(vocab_size=300))
    build_cache(scenes_clean, out, config, detect_shapes(scenes_clean, ShapesConfig()))
    write_digests(out)
    return out


@pytest.fixture(scope="session")
def caches(
    scenes_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], "TrainingCache"]:
    """Opens the training cache of a tiny dataset of `tests.tiny`, or of `scenes`, by name."""
    from plumbline.loading.cache_reader import TrainingCache
    from tests.tiny import TOKENIZE, make_cache, write_clean

    opened = {"scenes": TrainingCache(scenes_cache)}

    def open_cache(name: str) -> TrainingCache:
        if name not in opened:
            folder = tmp_path_factory.mktemp(name)
            (folder / "clean").mkdir()
            write_clean(folder / "clean", name)
            settings = TOKENIZE.get(name, {"tokenizer": {"kind": "char"}})
            opened[name] = make_cache(folder, settings)
        return opened[name]

    return open_cache


@pytest.fixture(scope="session")
def aligned_folder(scenes_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored dual encoder with random weights, as `pretrain_alignment` writes one."""
    from plumbline.kinds.alignment.settings import AlignmentTaskConfig, DualEncoderConfig
    from plumbline.kinds.alignment.train import build
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.training.task import JobContext
    from tests.tiny import TEXT, VIT

    sides = {
        "image_encoder": VIT | {"feature_layers": [0, -1]},
        "text_encoder": TEXT | {"max_tokens": 64},
    }
    model = DualEncoderConfig.model_validate(sides | {"embed_dim": 8})
    task = AlignmentTaskConfig.model_validate({"inputs": {"modality": "image"}})
    job = build(JobContext(cache=TrainingCache(scenes_cache), seed=0), model, task)
    return store(job, tmp_path_factory.mktemp("aligned"))


@pytest.fixture(scope="session")
def make_job(caches: Callable[[str], "TrainingCache"], aligned_folder: Path) -> "MakeJob":
    """Builds the training of a case of `tests.tiny`, with other settings where some are given."""
    from plumbline.kind import known_kinds
    from plumbline.training.task import JobContext, TrainingJob
    from tests.tiny import CASES

    def make(
        name: str,
        *,
        model: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
        **context: Any,
    ) -> TrainingJob:
        case = CASES[name]
        kind = known_kinds()[case.kind]
        made: TrainingJob = kind.role("train").build(
            JobContext(
                **({"cache": caches(case.data), "seed": 0, "start": aligned_folder} | context)
            ),
            kind.settings.model.model_validate(case.model | (model or {})),
            kind.settings.task.model_validate(case.task | (task or {})),
        )
        return made

    return make


@pytest.fixture(scope="session")
def stored_case(
    make_job: "MakeJob", tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a case's model, with random weights; tests only read it."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = store(make_job(name), tmp_path_factory.mktemp(name))
        return folders[name]

    return folder


def store(job: "TrainingJob", folder: Path) -> Path:
    """Write the model of a job as a training does."""
    from plumbline.files import write_digests
    from plumbline.models.stored import save_model

    save_model(folder, job.model, job.spec, job.tokenizer)
    write_digests(folder)
    return folder
