"""Claim: the logits of a large vocabulary take a bounded memory, whatever a batch has of tokens.

Trains one step of a last map on its hidden states, once with all logits at a time and once in
chunks, each in a process of its own. Prints what their peaks lie above what was there before, less
the weight's own gradient, CPU seconds and the ratios, as one JSON line:
`python -m bench.lm_head --vocab 152000 --width 1024 --tokens 4096`.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys

import torch
from torch import nn

from plumbline.losses.language import token_cross_entropy
from plumbline.models import lm_head


def step(vocab: int, width: int, tokens: int) -> dict[str, float]:
    """One forward and backward pass."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    head = nn.Linear(width, vocab, bias=False)
    hidden = torch.randn(tokens, width, requires_grad=True)
    labels = torch.randint(0, vocab, (tokens,))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, os.times()
    loss = lm_head.chunked_loss(head, hidden, labels, token_cross_entropy)
    loss.total.backward()
    after, ended = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, os.times()
    own = head.weight.nbytes / 2**20
    return {
        "peak_mb": round((after - before) / 1024 - own),
        "cpu_s": round(ended.user + ended.system - began.user - began.system, 2),
        "loss": float(loss.total) / tokens,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("vocab", 152_000), ("width", 1024), ("tokens", 4096)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=("whole", "chunks"))
    options = parser.parse_args()
    sizes = (options.vocab, options.width, options.tokens)
    if options.only:
        if options.only == "whole":
            lm_head.CHUNK_BYTES["cpu"] = 2**60
        print(json.dumps(step(*sizes)))
        return
    found = {
        how: json.loads(
            subprocess.run(
                [sys.executable, "-m", "bench.lm_head", "--only", how]
                + [f"--{name}={getattr(options, name)}" for name in ("vocab", "width", "tokens")],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for how in ("whole", "chunks")
    }
    ratios = {
        name: round(found["chunks"][name] / found["whole"][name], 3)
        for name in ("peak_mb", "cpu_s")
    }
    facts = {"vocab, width, tokens": sizes, "torch": torch.__version__}
    apart = abs(found["chunks"]["loss"] / found["whole"]["loss"] - 1)
    facts |= {"ratios": ratios, "loss_difference": apart}
    print(json.dumps({**facts, **found, "machine": platform.machine()}))


if __name__ == "__main__":
    main()
