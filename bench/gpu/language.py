"""Claim: a causal language model trains as fast as a bare loop that is compiled whole.

124 million parameters of the Qwen3 type, rows of 1,024 tokens, a vocabulary of 32,000, bf16: our
trainer with its loader beside loops over batches that lie on the GPU. Tokens a second, and their
share of the card's rate at 0.859 GFLOP a token (6 x parameters + 12 x layers x width x seq; the
attention not halved for causality, the tied head once). `python -m bench.gpu.language [case ...]`.
"""

import sys
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.gpu.measure import (
    DEVICE,
    PEAK_FLOPS,
    emit,
    loop,
    matmul_flops,
    size,
    train,
)
from plumbline.batch import Sample
from plumbline.kinds.causal_lm.model import CausalLm
from plumbline.kinds.causal_lm.settings import CausalLmConfig
from plumbline.kinds.causal_lm.train import collate
from plumbline.kinds.language.loss import language_loss
from plumbline.loading.random import keyed_generator
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.packed import takes_whole_rows
from plumbline.training.task import Task

WIDTH, LAYERS, HEADS = size(768, 32), size(12, 2), size(12, 2)
MLP, VOCAB, SEQ = size(2560, 64), size(32_000, 300), size(1024, 32)
BATCH = size(32, 4)


class Stream:
    """Blocks of random tokens."""

    def __len__(self) -> int:
        return 100 * BATCH

    def sample(self, index: int, epoch: int) -> Sample:
        """A block and the token before it."""
        ids = keyed_generator(0, "bench", epoch, index).integers(0, VOCAB, SEQ + 1)
        return {"index": index, "epoch": epoch, "ids": ids, "labels": ids}


def model() -> CausalLm:
    """With random weights, as a training builds it."""
    torch.manual_seed(0)
    decoder = DecoderConfig(
        width=WIDTH, layers=LAYERS, heads=HEADS, kv_heads=HEADS, mlp_width=MLP, max_positions=SEQ
    )
    made = CausalLm(CausalLmConfig(decoder=decoder), VOCAB, 0)
    made.whole_rows = takes_whole_rows(made.decoder, SEQ)
    return made


def flops_per_token() -> float:
    """Of a step, by the formula of the claim."""
    parameters = sum(p.numel() for p in model().parameters())
    return 6 * parameters + 12 * LAYERS * WIDTH * SEQ


def report(case: str, batch: int, found: dict[str, object], rate: float) -> None:
    """Print tokens a second and what follows."""
    seconds = found["step_s"]
    assert isinstance(seconds, float)
    tokens = batch * SEQ / seconds
    flops = tokens * flops_per_token()
    shares = {"mfu": flops / PEAK_FLOPS, "of_matmul": flops / rate}
    emit("language", case=case, batch=batch, tokens_s=tokens, **shares, matmul=rate, **found)


def ours(case: str, rate: float, batch: int = BATCH, **settings: object) -> None:
    """Our trainer."""
    task = Task("causal_lm", partial(collate, pad=0), language_loss)
    deterministic = bool(settings.pop("deterministic", True))
    profile = bool(settings.pop("profile", False))
    save_every = settings.pop("save_every", 0)
    assert isinstance(save_every, int)
    found = train(
        model(),
        task,
        Stream(),
        batch=batch,
        deterministic=deterministic,
        profile=profile,
        save_every=save_every,
        **settings,
    )
    report(case, batch, found, rate)


def bare(case: str, rate: float, *, compiled: bool, batch: int = BATCH) -> None:
    """A loop over batches on the GPU, of the model of transformers."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            head_dim=WIDTH // HEADS,
            intermediate_size=MLP,
            max_position_embeddings=SEQ,
            tie_word_embeddings=True,
        )
    ).to(DEVICE)
    ids = [torch.randint(0, VOCAB, (batch, SEQ + 1), device=DEVICE) for _ in range(8)]

    def passes(tokens: Tensor, labels: Tensor) -> Tensor:
        logits = net(input_ids=tokens, use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

    run = torch.compile(passes) if compiled else passes

    def loss(step: int) -> Tensor:
        batch_ids = ids[step % len(ids)]
        return run(batch_ids[:, :-1].contiguous(), batch_ids[:, 1:].contiguous())

    report(case, batch, loop(list(net.parameters()), loss), rate)


CASES = {
    "ours": ours,
    "bare_compiled": partial(bare, compiled=True),
    "ours_fastest": partial(ours, deterministic=False),
    "ours_large": partial(ours, batch=2 * BATCH, deterministic=False, profile=True),
    "bare_eager": partial(bare, compiled=False),
    "ours_layers": partial(ours, compile={"unit": "layers"}, save_every=size(40, 4)),
    "ours_eager": partial(ours, compile={"mode": "none"}),
}


def main(names: list[str]) -> None:
    """Measure some cases, or all."""
    rate = matmul_flops()
    for name in names or CASES:
        CASES[name](name, rate)


if __name__ == "__main__":
    main(sys.argv[1:])
