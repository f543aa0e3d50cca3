"""Claim: what kernels that repeat cost on a GPU, and what is not repeatable without them.

Forward and backward of a patch convolution and of attention, with the fastest kernels and with
those of `trainer.deterministic`, in turn. Prints a JSON line each: milliseconds, their ratio, and
how many different gradients ten repeats gave. `python -m bench.gpu.deterministic`.
"""

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from plumbline.models.device import repeat_exactly

BATCH, HEADS, TOKENS, WIDTH = 16, 12, 1024, 64
TURNS, STEPS, REPEATS = 5, 20, 10

Step = Callable[[], list[Tensor]]
"""Computes gradients."""


def convolution(dtype: torch.dtype) -> Step:
    """The patches of a ViT-B/16 at 224 pixels."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 768, 16, 16, device="cuda")
    images = torch.randn(4 * BATCH, 3, 224, 224, device="cuda")

    def step() -> list[Tensor]:
        layer.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            patches = layer(images)
        patches.float().square().mean().backward()
        assert layer.weight.grad is not None
        return [layer.weight.grad]

    return step


def attention(dtype: torch.dtype, *, masked: bool) -> Step:
    """Causal attention, by the flag or by a mask of what each token may see."""
    torch.manual_seed(0)
    shape = (BATCH, HEADS, TOKENS, WIDTH)
    parts = [torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3)]
    seen = torch.ones(BATCH, 1, TOKENS, TOKENS, dtype=torch.bool, device="cuda").tril()

    def step() -> list[Tensor]:
        for part in parts:
            part.grad = None
        found = scaled_dot_product_attention(
            *parts, attn_mask=seen if masked else None, is_causal=not masked
        )
        found.float().square().mean().backward()
        return [part.grad for part in parts if part.grad is not None]

    return step


def milliseconds(step: Step) -> float:
    """The mean of some steps, after a few that warm up."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / STEPS * 1e3


def distinct(step: Step) -> int:
    """How many different gradients repeats give."""
    found = set()
    for _ in range(REPEATS):
        digest = hashlib.sha256()
        for gradient in step():
            digest.update(gradient.float().cpu().numpy().tobytes())
        found.add(digest.hexdigest())
    return len(found)


def measure(work: str, dtype: torch.dtype, step: Step) -> dict[str, object]:
    """Both ways in turn."""
    times: dict[bool, list[float]] = {False: [], True: []}
    counts = {}
    for _ in range(TURNS):
        for repeats in (False, True):
            torch.use_deterministic_algorithms(repeats)
            times[repeats].append(milliseconds(step))
    for repeats in (False, True):
        torch.use_deterministic_algorithms(repeats)
        counts[repeats] = distinct(step)
    fast, exact = (statistics.median(times[repeats]) for repeats in (False, True))
    return {
        "claim": "what kernels that repeat cost",
        "work": work,
        "dtype": str(dtype).removeprefix("torch."),
        "fastest_ms": round(fast, 3),
        "deterministic_ms": round(exact, 3),
        "ratio": round(exact / fast, 2),
        "different_gradients_of_10": {"fastest": counts[False], "deterministic": counts[True]},
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure each work in both precisions."""
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    repeat_exactly()  # before cuBLAS reads the environment
    for dtype in (torch.float32, torch.bfloat16):
        for work, step in (
            ("patches of 224 pixels", convolution(dtype)),
            ("causal attention, 1,024 tokens", attention(dtype, masked=False)),
            ("masked attention, 1,024 tokens", attention(dtype, masked=True)),
        ):
            print(json.dumps(measure(work, dtype, step)), flush=True)


if __name__ == "__main__":
    main()
