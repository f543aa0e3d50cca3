"""How each kind of task is exported: a line each. A plugin adds a line."""

from dataclasses import dataclass

from plumbline.export.config import ExportConfig
from plumbline.kinds.causal_lm.settings import CausalLmExportConfig
from plumbline.kinds.masked_lm.settings import MaskedLmExportConfig
from plumbline.kinds.seq2seq.settings import Seq2SeqExportConfig
from plumbline.kinds.vlm.settings import VlmExportConfig
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
    ("vlm", VlmExportConfig, "plumbline.kinds.vlm.export:VlmPlan"),
    ("causal_lm", CausalLmExportConfig, "plumbline.kinds.causal_lm.export:CausalPlan"),
    ("masked_lm", MaskedLmExportConfig, "plumbline.kinds.masked_lm.export:MaskedPlan"),
    ("seq2seq", Seq2SeqExportConfig, "plumbline.kinds.seq2seq.export:Seq2SeqPlan"),
    ("classification", ExportConfig, "plumbline.kinds.classification.export:ClassificationPlan"),
    ("regression", ExportConfig, "plumbline.kinds.regression.export:RegressionPlan"),
):
    EXPORTS.register(_kind, ExportKind(_settings, _plan))
