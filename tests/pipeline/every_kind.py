"""A project with every kind of source, task and stage in it, whose params.yaml names every key.

Its datasets and tasks are those of test_kinds.py and the smoke preset's; settings that only count
beside others (a schedule's, an optimiser's, an augmentation's) are each switched on somewhere.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from plumbline.config import Config, check_config, compose_yaml
from plumbline.params import installed_versions
from plumbline.stages.specs import specs
from tests.pipeline.checkout import ROOT, Checkout, make_checkout
from tests.pipeline.test_kinds import ALIGN, DATASETS, TASKS, dataset, write_data

MORE_DATASETS = {
    "table": dataset(
        "data/table",
        {"source": "parquet", "columns": {"sample_id": "id", "text": "text", "label": "label"}},
        {"classify": ["text", "label"]},
    ),
    "signals": dataset(
        "data/.gitkeep",
        {"source": "signals", "recordings": 60, "subjects": 6, "steps": [8, 12]},
        {"classify": ["features", "label"]},
    ),
}
SWITCHED_ON = {
    "tasks.hidden.train.trainer.optim.name": "muon",
    "tasks.hidden.train.trainer.schedule": {"name": "one_cycle", "warmup_share": 0.5},
    "tasks.amount.train.trainer.optim.name": "sgd",
    "tasks.amount.train.trainer.schedule": {"name": "plateau", "plateau_patience": 0},
    "tasks.amount.train.trainer.epochs": 3,  # the second validation lowers the rate of the third
    "tasks.amount.train.trainer.optim.lr": 1e-12,  # no weight moves, so no loss improves
    "tasks.amount.train.trainer.non_finite": "skip",
    "tasks.shapes.train.task.inputs.augment": {"enlarge": 4, "padding": 2, "flip": 0.5},
    "tasks.shapes.train.task.inputs.normalize": {
        "preset": None,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
    },
    "tasks.heard.train.task.inputs.augment": {
        "time_masks": 1,
        "time_width": 4,
        "mel_masks": 1,
        "mel_width": 4,
    },
    "align.sounds.train.model.audio_encoder.layers": 1,
    "align.sounds.train.model.audio_encoder.heads": 2,
    "align.image.export.enabled": True,
    "tasks.next.evaluate.sampling.temperature": 0.7,
}


def plain(value: Any) -> Any:
    """Settings as mappings, lists and scalars, every field written out."""
    if isinstance(value, Config):
        return {name: plain(inner) for name, inner in vars(value).items()}
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def put(params: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        params = params.setdefault(part, {})
    params[last] = value


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf; lists and empty mappings are leaves."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    return {
        key: value
        for name, inner in node.items()
        for key, value in leaves(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def written_out(params: dict[str, Any]) -> dict[str, Any]:
    """The same settings with the defaults of every stage's schema written into them."""
    full = deepcopy(params)
    for spec in specs():
        for key in params[spec.group] if spec.group else []:
            sections = spec.sections(key)
            given = spec.sections_in(key, params)
            config = check_config(spec.schema_for(key, params), given, params)
            for field, dotted in sections.items():
                put(full, dotted, plain(vars(config)[field]))
    return full


def every_kind() -> dict[str, Any]:
    """The parameters."""
    smoke = compose_yaml(ROOT / "conf", "config", ["experiment=smoke"])
    params: dict[str, Any] = {
        "versions": installed_versions(),
        "seed": 0,
        "threads": 1,
        "objects": {},
        "weights": {},
        "datasets": {**smoke["datasets"], **DATASETS, **MORE_DATASETS},
        "align": {**smoke["align"], **ALIGN},
        "tasks": {**smoke["tasks"], **TASKS},
        "report": smoke["report"],
    }
    params = json.loads(json.dumps(params))  # tasks share parts, which deepcopy would keep
    for name in TASKS:
        put(params, f"tasks.{name}.start", f"work/cache/{TASKS[name]['data']}")
    for dotted, value in SWITCHED_ON.items():
        put(params, dotted, value)
    return written_out(params)


def write_project(folder: Path, params: dict[str, Any]) -> Checkout:
    """A checkout whose conf/ composes to `params`, with the data in place."""
    checkout = make_checkout(folder)
    composed = {"defaults": ["versions", "_self_"], **params}
    del composed["versions"]
    (folder / "conf/config.yaml").write_text(
        yaml.safe_dump(composed, sort_keys=False), encoding="utf-8"
    )
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    write_data(folder / "data")
    texts = [f"number {number} is {number % 2}" for number in range(40)]
    table = {
        "id": [str(n) for n in range(40)],
        "text": texts,
        "label": [("even", "odd")[n % 2] for n in range(40)],
    }
    (folder / "data/table").mkdir()
    pq.write_table(pa.table(table), folder / "data/table/rows.parquet")
    return checkout
