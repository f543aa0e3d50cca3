"""How each kind of task is exported: a line each. A plugin adds a line."""

from dataclasses import dataclass

from plumbline.export.config import (
    CausalLmExportConfig,
    ExportConfig,
    MaskedLmExportConfig,
    Seq2SeqExportConfig,
    VlmExportConfig,
)
from plumbline.registry import Registry


@dataclass(frozen=True)
class ExportKind:
    """The settings of an export, and what plans it."""

    settings: type[ExportConfig]
    """Section `export` of a task."""
    plan: str
    """`module:class` of the `plumbline.export.plan.BundlePlan`, a `GraphPlan` with graphs."""


EXPORTS: Registry[ExportKind] = Registry("kind of task")

for _kind, _settings, _plan in (
    ("vlm", VlmExportConfig, "plumbline.export.vlm:VlmPlan"),
    ("causal_lm", CausalLmExportConfig, "plumbline.export.language:CausalPlan"),
    ("masked_lm", MaskedLmExportConfig, "plumbline.export.language:MaskedPlan"),
    ("seq2seq", Seq2SeqExportConfig, "plumbline.export.seq2seq:Seq2SeqPlan"),
    ("classification", ExportConfig, "plumbline.export.classifier:ClassificationPlan"),
    ("regression", ExportConfig, "plumbline.export.classifier:RegressionPlan"),
):
    EXPORTS.register(_kind, ExportKind(_settings, _plan))
