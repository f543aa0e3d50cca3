"""The stages whose settings stand in params.yaml, in the order of the DAG."""

import importlib

from plumbline.config import Config
from plumbline.stage import StageSpec

STAGES = (
    "resolve_weights",
    "list_objects",
    "prepare",
    "validate",
    "detect_shapes",
    "tokenize_text",
    "pretrain_alignment",
    "evaluate_alignment",
    "export_alignment",
    "finetune",
    "evaluate_model",
    "export_model",
    "report",
)


def specs() -> list[StageSpec[Config]]:
    """What every stage reads of params.yaml."""
    return [importlib.import_module(f"plumbline.stages.{name}").SPEC for name in STAGES]
