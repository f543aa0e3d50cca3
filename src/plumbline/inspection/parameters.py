"""Parameters, memory and operations of a model, by part."""

import argparse

from plumbline.inspection.result import Report, table
from plumbline.inspection.target import Target
from plumbline.training.flops import count_step
from plumbline.training.freeze import set_training_mode

COLUMNS = {
    "part": "part",
    "parameters": "parameters",
    "trained": "trained",
    "mib": "MiB",
    "forward_gflop": "forward GFLOP",
    "step_gflop": "step GFLOP",
}


def inspect(target: Target, options: argparse.Namespace) -> Report:
    """Count what a model is made of, and what one batch of training computes."""
    model = target.job.model
    batch = target.batch(options.samples)
    model.to(target.machine.device)
    set_training_mode(model, target.config.train.freeze)
    flops = count_step(model, target.job.task, batch, target.machine)
    parts: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        part = parts.setdefault(name.split(".")[0], {"parameters": 0, "trained": 0, "bytes": 0})
        part["parameters"] += parameter.numel()
        part["trained"] += parameter.numel() if parameter.requires_grad else 0
        part["bytes"] += parameter.numel() * parameter.element_size()
    step = flops.step
    counts: dict[str, dict[str, int]] = {}
    for name in [*parts, *sorted(set(step) - set(parts))]:
        counts[name or "(beside the parts)"] = {
            **parts.get(name, {"parameters": 0, "trained": 0, "bytes": 0}),
            "forward_flops": flops.forward.get(name, 0),
            "step_flops": step.get(name, 0),
        }
    keys = ("parameters", "trained", "bytes", "forward_flops", "step_flops")
    sums = {key: sum(counted[key] for counted in counts.values()) for key in keys}
    samples = len(batch["sample_index"])
    shown = [
        {
            "part": part,
            **counted,
            "mib": counted["bytes"] / 2**20,
            "forward_gflop": counted["forward_flops"] / 1e9,
            "step_gflop": counted["step_flops"] / 1e9,
        }
        for part, counted in [*counts.items(), ("all", sums)]
    ]
    rows = [{"part": part, **counted} for part, counted in counts.items()]
    total = {"part": "all", **sums}
    text = (
        f"{table(shown, COLUMNS)}\n\n"
        f"Operations of one batch of {samples} samples, forward and with its gradients; a\n"
        "multiplication with its addition counts as two, work element by element not at all."
    )
    return Report(text, {"samples": samples, "parts": rows, "all": total})
