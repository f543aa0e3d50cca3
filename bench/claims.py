"""The claims about a CPU: what each script has to find, at sizes that fit into a coffee break."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bar:
    """A figure of a script, and how far it may go."""

    figure: str
    """Dotted keys in a line of what the script prints."""
    least: float | None = None
    most: float | None = None
    line: Mapping[str, Any] = field(default_factory=dict)
    """What the line says beside it, where a script prints several."""
    unit: str = ""

    def found(self, lines: list[dict[str, Any]]) -> float | None:
        """The figure in what was printed; None: it is not there."""
        for each in lines:
            if all(each.get(name) == value for name, value in self.line.items()):
                value: Any = each
                for key in self.figure.split("."):
                    value = value.get(key) if isinstance(value, dict) else None
                if value is not None:
                    return float(value)
        return None

    def holds(self, value: float | None) -> bool:
        """Whether a figure is within the bar; one that is missing is not."""
        return (
            value is not None
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        bounds = (("≥", self.least), ("≤", self.most))
        text = ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        return text or "reported"


@dataclass(frozen=True)
class Claim:
    """One claim, the script that measures it beside its peer, and its bars."""

    says: str
    peer: str
    """What is run in turn with ours, and what of both must be equal."""
    script: str
    arguments: tuple[str, ...]
    bars: Mapping[str, Bar]
    """What a figure is called -> its bar."""
    minutes: float = 10.0
    """When it is ended."""


def _loader(side: int, augment: dict[str, Any]) -> dict[str, Any]:
    return {"side": side, "augment": augment}


COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}

CLAIMS = {
    "language_step": Claim(
        "a training of a language model costs what a bare loop costs",
        "a loop of the same model, rows and optimiser, a step of each in turn; equal losses",
        "language_step",
        (),
        {"bare / ours, CPU": Bar("ratio", least=0.98)},
    ),
    "packing": Claim(
        "rows of unequal length train without padding",
        "transformers' Trainer, padded and grouped by length, on the same rows; real tokens",
        "packing",
        ("--block", "256", "--batch", "32", "--steps", "4", "--repeats", "3"),
        {
            "to padded": Bar("to_padded", least=2.5),
            "to grouped": Bar("to_grouped", least=0.98),
        },
        minutes=15,
    ),
    "loader": Claim(
        "batches of images cost a fraction of transforms of one after the other",
        "PIL and torchvision item by item; equal float32 batches",
        "loader",
        (),
        {
            "32 px": Bar("ratio", least=60, line=_loader(32, {})),
            "224 px": Bar("ratio", least=10, line=_loader(224, {})),
            "224 px, crop, mirror, colours": Bar(
                "ratio", least=2, line=_loader(224, {"enlarge": 32, "flip": 0.5, **COLOURS})
            ),
        },
    ),
    "text_metrics": Claim(
        "BLEU and ROUGE are no slower than their libraries",
        "sacrebleu and rouge-score on the same pairs; figures equal to the bit",
        "text_metrics",
        (),
        {
            "BLEU, pairs once": Bar("bleu, distinct.ratio", least=1.0),
            "ROUGE, pairs once": Bar("rouge, distinct.ratio", least=1.0),
            "BLEU, pairs repeated": Bar("bleu, repeated.ratio", least=1.0),
            "ROUGE, pairs repeated": Bar("rouge, repeated.ratio", least=1.0),
        },
    ),
    "checkpoint": Claim(
        "a checkpoint holds the loop up for its copy alone",
        "torch.save of the same state, wall time; the state read back is equal",
        "checkpoint",
        (),
        {"ours / torch.save": Bar("ratio", most=0.25)},
    ),
    "lm_head": Claim(
        "logits of a large vocabulary take a bounded memory",
        "all logits at a time; equal losses",
        "lm_head",
        ("--vocab", "152000", "--width", "128", "--tokens", "4096"),
        {
            "peak memory": Bar("ratios.peak_mb", most=0.1),
            "CPU": Bar("ratios.cpu_s", most=1.0),
            "losses apart": Bar("loss_difference", most=1e-5),
        },
    ),
    "shared_image": Claim(
        "questions that share their image's sequence train faster",
        "a sequence for each question, the same model; equal losses",
        "shared_image",
        (),
        {
            "questions per CPU second": Bar("ratio", least=1.4),
            "losses apart": Bar("loss_difference", most=1e-5),
        },
    ),
    "widths": Claim(
        "one embedding width a batch costs less than the sum over all",
        "the sum over five widths of the same loss",
        "widths",
        (),
        {"CPU": Bar("ratio_time", most=0.5), "memory": Bar("ratio_memory", most=0.5)},
    ),
    "sharding": Claim(
        "layers spread over two processes need less memory in each",
        "whole layers in both",
        "sharding",
        (),
        {"peak memory": Bar("memory_ratio", most=0.6)},
    ),
    "memory": Claim(
        "what a training takes of memory is known before it starts",
        "two steps of it, the most memory of a process",
        "memory",
        ("smol_siglip_sgd", "smol_siglip_again"),
        {
            "estimated / used, SGD": Bar(
                "ratio", least=0.85, most=1.1, line={"name": "smol_siglip_sgd"}
            ),
            "estimated / used, layers computed again": Bar(
                "ratio", least=0.85, most=1.1, line={"name": "smol_siglip_again"}
            ),
        },
    ),
    "startup": Claim(
        "a process imports what it needs",
        "import torch, in turn",
        "startup",
        ("--repeats", "3"),
        {
            "training of a VLM, CPU s": Bar("imports_s.finetune_vlm", most=6.0),
            "of a causal LM": Bar("imports_s.finetune_causal_lm", most=6.0),
            "of an encoder-decoder": Bar("imports_s.finetune_seq2seq", most=6.0),
            "of a classifier": Bar("imports_s.finetune_classification", most=6.0),
            "predict, language / import torch": Bar("predict_ratio.language", most=2.0),
            "predict, image / import torch": Bar("predict_ratio.image", most=2.0),
            "predict, features / import torch": Bar("predict_ratio.features", most=2.0),
        },
        minutes=15,
    ),
    "bundle": Claim(
        "the export of the default VLM is short",
        "nothing: parts of one process, each given apart",
        "bundle",
        (),
        {"CPU s": Bar("total_s", most=20.0), "graphs captured": Bar("captures", most=2)},
        minutes=15,
    ),
    "noop": Claim(
        "a second dvc repro costs little more than one of empty stages",
        "a chain of as many stages that do nothing",
        "noop",
        ("--entries", "5"),
        {"CPU": Bar("ratio", most=2.0)},
    ),
    "tracking": Claim(
        "a tracker that is down or hangs costs nothing",
        "the same training with tracking off; equal outputs",
        "tracking",
        ("--repeats", "3", "--epochs", "40"),
        {
            "down, CPU": Bar("down.cpu_ratio", most=1.05),
            "hanging, CPU": Bar("hanging.cpu_ratio", most=1.05),
        },
        minutes=15,
    ),
    "server_load": Claim(
        "hostile clients keep no good one from its answer",
        "the same server without them; answers as in the self-test",
        "server_load",
        ("--seconds", "30"),
        {"good requests refused": Bar("mixed.refused_count", most=0)},
        minutes=15,
    ),
    "decode_cost": Claim(
        "the worst media that the limits allow cost seconds, costlier ones are refused",
        "the limits of a medium: 2 s, 300 MB, 1 s to refuse",
        "decode_cost",
        (),
        {"media over their limit": Bar("over", most=0, line={"medium": "all"})},
    ),
    "dirty": Claim(
        "validation finds planted faults and loses no good row",
        "the manifest of the faults",
        "dirty",
        (),
        {
            "faults missed": Bar("missed", most=0, line={"view": "all"}),
            "good rows lost": Bar("lost", most=0, line={"view": "all"}),
        },
    ),
    "validation": Claim(
        "validation costs a fraction of a loop of pandas and Pillow, and growth costs what is new",
        "a loop that verifies or decodes each image, in turn; all rows are good on both sides",
        "validation",
        ("--rows", "60000", "--peers", "6000"),
        {
            "cheap": Bar("ratio", least=25, line={"level": "cheap"}),
            "header": Bar("ratio", least=10, line={"level": "header"}),
            "full": Bar("ratio", least=1.3, line={"level": "full"}),
            "two processes, CPU": Bar("cpu_ratio", most=1.15),
            "after a kill at 60 %": Bar("after_kill", most=0.45),
            "1 % more files": Bar("after_growth", most=0.03),
        },
        minutes=20.0,
    ),
    "streaming": Claim(
        "a set of three times the memory trains from encoded shards, at the rate of decoded media",
        "the same set decoded; equal losses for 0, 2, 4 loader processes and after a kill",
        "streaming",
        (),
        {
            "anonymous GiB": Bar("anonymous_gib", most=2.0),
            "equal losses": Bar("equal_losses", least=1),
            "samples a CPU s / decoded's": Bar("to_decoded"),
        },
        minutes=60.0,
    ),
    "duplicates": Claim(
        "InfoNCE is the same with equal captions as positives and with the diagonal",
        "the diagonal alone, the same seeds; recall",
        "duplicates",
        ("6", "0"),
        {"recall@1 apart": Bar("difference", most=0.0, line={"loss": "info_nce"})},
    ),
    "spin": Claim(
        "compute threads that wait a little cost nothing beside other jobs",
        "the default of the OpenMP runtime, beside as many busy processes; equal weights",
        "spin",
        ("--repeats", "1"),
        {"CPU / default's": Bar("cpu_ratio", most=0.5)},
    ),
}
"""By name, the order of the ledger."""
