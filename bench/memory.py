"""What the estimate of memory says, and what a training step then takes: a JSON line each.

    python -m bench.memory [name ...]

Real architectures with random weights. On a CPU the most memory of a process of its own, above
what it holds beside the model before the first step; on a GPU PyTorch's own count.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from plumbline.batch import IGNORE_INDEX, Batch, LossSum, labelled_places
from plumbline.config import Config
from plumbline.losses.language import token_cross_entropy
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.projector_config import MlpConfig
from plumbline.training.config import TrainerConfig
from plumbline.training.machine import Machine
from plumbline.training.memory_estimate import Estimator
from plumbline.training.optim import build_optimizer
from plumbline.training.processes import Processes
from plumbline.training.sections import TrainSection
from plumbline.training.task import Task
from plumbline.training.task_config import TaskConfig
from plumbline.training.window import Gradients


@dataclass(frozen=True)
class Subject:
    """A model and a batch of it."""

    make: Callable[[int], nn.Module]
    """From the layers of the decoder."""
    layers: int
    batch: Callable[[], Batch]
    loss: Callable[[nn.Module, Batch], LossSum]
    trainer: Mapping[str, object]


def causal_lm(layers: int) -> nn.Module:
    """Qwen3-0.6B, whose heads are wider than its width over their number."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from plumbline.kinds.causal_lm.model import CausalLm
    from plumbline.kinds.causal_lm.settings import CausalLmConfig
    from plumbline.models.lm_head import LmHead

    tiny = DecoderConfig(width=64, layers=1, heads=1, kv_heads=1, mlp_width=64, max_positions=64)
    model = CausalLm(CausalLmConfig(decoder=tiny), 300, 0)
    sizes = Qwen3Config(
        vocab_size=151_936, hidden_size=1024, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, intermediate_size=3072,
        max_position_embeddings=40_960, tie_word_embeddings=True,
    )  # fmt: skip
    model.decoder = Qwen3ForCausalLM(sizes)
    model.lm_head = LmHead(model.decoder)
    return model


def vlm(layers: int) -> nn.Module:
    """SmolLM2-135M behind an encoder of SigLIP-B's shapes: 196 tokens of 768 from 224 x 224."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from plumbline.kinds.vlm.model import Vlm
    from plumbline.kinds.vlm.settings import VlmConfig
    from plumbline.models.encoder_config import VitConfig
    from plumbline.models.vision import VitEncoder

    encoder = VitEncoder(
        VitConfig(
            name="vit",
            image_size=224, patch_size=16, layers=12, heads=12, width=768, mlp_width=3072,
            dropout=0.0,
        )
    )  # fmt: skip
    tiny = DecoderConfig(width=576, layers=1, heads=9, kv_heads=3, mlp_width=64, max_positions=64)
    model = Vlm(
        encoder, VlmConfig(decoder=tiny, projector=MlpConfig(name="mlp", width=1152)), 300, 0
    )
    sizes = LlamaConfig(
        vocab_size=49_152, hidden_size=576, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, intermediate_size=1536, max_position_embeddings=8192,
        tie_word_embeddings=True,
    )  # fmt: skip
    model.decoder = LlamaForCausalLM(sizes)
    return model


def texts(samples: int, length: int, vocab: int) -> Batch:
    """Rows of which each position but the last carries a label."""
    ids = torch.randint(0, vocab, (samples, length))
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "sample_index": list(range(samples))}


def dialogues(samples: int, length: int) -> Batch:
    """Images with one text each."""
    ids = torch.randint(0, 49_152, (samples, length))
    places = 196 + length
    labels = ids.clone()
    labels[:, 0] = IGNORE_INDEX  # nothing says the first token
    return {
        "input_ids": ids,
        "labels": labels,
        **labelled_places(labels),
        "pixel_values": torch.randn(samples, 3, 224, 224),
        "position_ids": torch.arange(places).expand(samples, -1),
        "mask": torch.empty(samples, 0, 2, dtype=torch.int64),  # one text each: none is needed
        "sample_index": list(range(samples)),
    }


def language_loss(model: nn.Module, batch: Batch) -> LossSum:
    """As causal language models have it."""
    from plumbline.kinds.language.loss import language_loss as loss

    return loss(model, batch, token_loss=token_cross_entropy)


def vlm_loss(model: nn.Module, batch: Batch) -> LossSum:
    """As task vlm has it."""
    from plumbline.kinds.vlm.train import loss

    return loss(model, batch)


AGAIN = {"gradient_checkpointing": True}
SUBJECTS = {
    "qwen3": Subject(causal_lm, 28, lambda: texts(2, 256, 151_936), language_loss, {}),
    "qwen3_again": Subject(causal_lm, 28, lambda: texts(4, 512, 151_936), language_loss, AGAIN),
    "smol_siglip": Subject(vlm, 30, lambda: dialogues(8, 64), vlm_loss, {}),
    "smol_siglip_again": Subject(vlm, 30, lambda: dialogues(8, 64), vlm_loss, AGAIN),
    "smol_siglip_sgd": Subject(
        vlm, 30, lambda: dialogues(4, 64), vlm_loss, {"optim": {"name": "sgd"}}
    ),
}


def resident(field: str) -> int:
    """Bytes of this process, by the system: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(name: str, device: torch.device, precision: str) -> dict[str, object]:
    """Two steps of a subject: the second has the optimiser's state from the start."""
    subject = SUBJECTS[name]
    torch.manual_seed(0)
    torch.set_num_threads(2)
    task = Task(name, collate=lambda samples: {}, loss=subject.loss)
    settings = TrainerConfig.model_validate({"precision": "fp32", **subject.trainer})
    train = TrainSection(model=Config(), task=TaskConfig(), trainer=settings)
    machine = Machine(device, precision, Processes())
    model = subject.make(subject.layers)
    need = Estimator(model, task, train, machine).need(batch := subject.batch(), 1)
    gc.collect()
    before = resident("VmRSS") - need.weights  # libraries are no part of the training
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # begins VmHWM anew
    model.to(device).train()
    if settings.gradient_checkpointing:
        from plumbline.training.checkpointing import Checkpointing

        Checkpointing(model)
    optimizer = build_optimizer(model, settings.optim)
    gradients = Gradients(model, task, machine, torch.GradScaler(device.type, enabled=False))
    for step in range(2):
        optimizer.zero_grad(set_to_none=True)
        gradients.accumulate([batch], [step])
        optimizer.step()
    used = resident("VmHWM") - before
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device)
    return {
        "name": name,
        "device": device.type,
        "precision": precision,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": subject.layers,
        "estimated": need.total - need.copies,  # no checkpoint is saved here
        "used": used,
        "ratio": round((need.total - need.copies) / used, 3),
        **need.by_part(),
    }


def main(arguments: list[str]) -> None:
    """Measure each in a process of its own, since a process's most memory never falls."""
    if arguments[:1] == ["--one"]:
        cuda = torch.cuda.is_available()
        device = torch.device("cuda" if cuda else "cpu")
        print(json.dumps(measure(arguments[1], device, arguments[2])), flush=True)
        return
    for name in arguments or list(SUBJECTS):
        for precision in ("fp32", "bf16") if torch.cuda.is_available() else ("fp32",):
            command = [sys.executable, "-m", "bench.memory", "--one", name, precision]
            subprocess.run(command, check=False)


if __name__ == "__main__":
    main(sys.argv[1:])
