"""Claim: whole, LoRA and QLoRA training of a decoder beside the Trainer of transformers with peft.

The sizes of Qwen3-0.6B with random weights, rows of 1,024 tokens, batches of 8, bf16. Tokens a
second, peak memory, and the share of the card's rate at 6 (whole) or 4 (adapters: no gradients of
weights) operations a parameter and token, attention beside. `python -m bench.gpu.adapters
[case ...]`; needs peft, and bitsandbytes for QLoRA.
"""

import sys
import tempfile
import time
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.gpu.measure import ON_GPU, PEAK_FLOPS, STEPS, WARM, clear, emit, size, train
from plumbline.batch import Sample
from plumbline.kinds.causal_lm.model import CausalLm
from plumbline.kinds.causal_lm.settings import CausalLmConfig
from plumbline.kinds.causal_lm.train import collate
from plumbline.kinds.language.loss import language_loss
from plumbline.loading.random import keyed_generator
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.lm_head import LmHead
from plumbline.models.packed import takes_whole_rows
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.adapters import attach_adapters
from plumbline.training.task import Task

BATCH, SEQ, VOCAB = size(8, 2), size(1024, 32), size(151_936, 300)
LAYERS, WIDTH = size(28, 2), size(1024, 64)
SIZES = Qwen3Config(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=size(16, 4),
    num_key_value_heads=size(8, 2),
    head_dim=size(128, 16),
    intermediate_size=size(3072, 64),
    max_position_embeddings=40_960,
    tie_word_embeddings=True,
)
RANK = 16


def ids(index: int) -> list[int]:
    """A row of random tokens and the one after it."""
    row: list[int] = keyed_generator(0, "bench", 0, index).integers(0, VOCAB, SEQ + 1).tolist()
    return row


class Rows:
    """For our trainer."""

    def __len__(self) -> int:
        return 100 * BATCH

    def sample(self, index: int, epoch: int) -> Sample:
        """Whole rows, labelled throughout."""
        import numpy as np

        row = np.array(ids(index))
        return {"index": index, "epoch": epoch, "ids": row, "labels": row}


class TheirRows(Dataset[dict[str, Tensor]]):
    """For the Trainer of transformers, which shifts the labels itself."""

    def __len__(self) -> int:
        return 100 * BATCH

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = torch.tensor(ids(index)[:SEQ])
        return {"input_ids": row, "labels": row}


def report(case: str, found: dict[str, object], parameters: int, *, whole: bool) -> None:
    """Print tokens a second and what follows."""
    seconds = found["step_s"]
    assert isinstance(seconds, float)
    tokens = BATCH * SEQ / seconds
    attention = 12 * LAYERS * SIZES.num_attention_heads * SIZES.head_dim * SEQ
    flops = (6 if whole else 4) * parameters + attention
    emit("adapters", case=case, tokens_s=tokens, mfu=tokens * flops / PEAK_FLOPS, **found)


def ours(case: str, method: str, **settings: object) -> None:
    """Our trainer, with its loader."""
    torch.manual_seed(0)
    tiny = DecoderConfig(width=64, layers=1, heads=1, kv_heads=1, mlp_width=64, max_positions=64)
    model = CausalLm(CausalLmConfig(decoder=tiny), 300, 0)
    net = Qwen3ForCausalLM(SIZES)
    parameters = sum(p.numel() for p in net.parameters())
    model.decoder, model.lm_head = net, LmHead(net)  # type: ignore[assignment, arg-type]
    if method != "whole":
        quantize = "nf4" if method == "qlora" else None
        config = AdapterConfig(rank=RANK, quantize=quantize)
        attach_adapters(model, {"decoder": config}, seed=0, compute_dtype=torch.bfloat16)
    model.whole_rows = takes_whole_rows(model.decoder, SEQ)
    task = Task("causal_lm", partial(collate, pad=0), language_loss)
    compiling = {"compile": {"unit": "layers"}, **settings}
    found = train(model, task, Rows(), batch=BATCH, **compiling)
    report(case, found, parameters, whole=method == "whole")


def theirs(case: str, method: str) -> None:
    """The Trainer of transformers, with peft."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clear()
    torch.manual_seed(0)
    net: nn.Module = Qwen3ForCausalLM(SIZES)
    parameters = sum(p.numel() for p in net.parameters())
    if method == "qlora":
        from plumbline.models.four_bit import pack_linears

        # The layers of bitsandbytes, as theirs; a checkpoint would be needed to load them so.
        head = net.get_output_embeddings()
        pack_linears(net, head, "nf4", double=True, compute_dtype=torch.bfloat16)
    if method != "whole":
        from peft import LoraConfig, get_peft_model

        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        net = get_peft_model(net, LoraConfig(r=RANK, lora_alpha=32, target_modules=names))
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            times.append(time.perf_counter())
            if len(times) == WARM and ON_GPU:
                torch.cuda.reset_peak_memory_stats()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=WARM + STEPS,
            bf16=True,
            logging_steps=10**6,
            save_strategy="no",
            report_to=[],
            dataloader_num_workers=size(8, 0),
            optim="adamw_torch_fused",
            use_cpu=not ON_GPU,
        )
        Trainer(net, arguments, train_dataset=TheirRows(), callbacks=[Clock()]).train()
    if ON_GPU:
        torch.cuda.synchronize()
    step = (time.perf_counter() - times[WARM - 1]) / STEPS
    peak = torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else 0.0
    report(case, {"step_s": step, "peak_gib": peak}, parameters, whole=method == "whole")


CASES = {
    f"{who}_{method}": partial(run, method=method)
    for method in ("whole", "lora", "qlora")
    for who, run in (("ours", ours), ("theirs", theirs))
}


def main(names: list[str]) -> None:
    """Measure some cases, or all."""
    for name in names or CASES:
        CASES[name](name)


if __name__ == "__main__":
    main(sys.argv[1:])
