"""What both phases from checkpoints reach on easy-VQA, beside the default recipe.

Recipe `siglip_qwen3` at the size of a test, in a checkout of its own: a SigLIP type of random
weights is aligned, then a Qwen3 type, which has learned to answer from the words alone, learns to
speak of what that tower sees through an adapter on nf4 weights. Recipe `easy_vqa`, which trains all
of its decoder from nothing, runs in another checkout. Both are written, trained, evaluated,
exported and self-tested by the stages as they are, one after the other and on one thread.

    PLUMBLINE_DATA=FOLDER python -m bench.both_phases [--epochs 6] [--folder KEPT]

PLUMBLINE_DATA names the folder that holds easy_vqa/. With `--folder` the checkouts stay there, and
a second call goes on where the first one ended. Prints one JSON line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from plumbline import paths
from plumbline.batch import IGNORE_INDEX
from plumbline.files import read_json
from plumbline.kinds.vlm.rows import join_segment
from plumbline.loading.loader import pad_rows
from plumbline.tokenization.tokenizer import (
    BOS,
    EOS,
    PAD,
    SpecialIds,
    TokenizerConfig,
    train_tokenizer,
)
from tests.pipeline.checkout import Checkout, make_checkout

SEED = 0
VOCAB = 512
MOST_TOKENS = 64
"""Of a question or an answer, as in the task."""
SIDE = 64
"""Pixels of an image of easy-VQA."""
DECODER = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
TOWER = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
}
ROLES = ("pad", "bos", "eos")
WORDS_EPOCHS, WORDS_BATCH = 3, 64
"""Of the decoder's training on questions and answers without images."""
SIDES = {
    "default": """# @package _global_
defaults: [easy_vqa]
threads: 1
""",
    "from_checkpoints": """# @package _global_
defaults: [siglip_qwen3]
threads: 1
datasets:
  easy_vqa: {tokenize: {image_size: null}}
align:
  image:
    train:
      loader: {batch_size: 64}
      trainer: {epochs: 12, precision: fp32, grad_accum_steps: 1, optim: {lr: 1.0e-3}}
tasks:
  vqa:
    train:
      model: {projector: {width: 256}}
      trainer: {epochs: EPOCHS, precision: fp32, optim: {lr: 2.0e-3, weight_decay: 0.05}}
""",
}
"""What is run in each checkout; the second one's epochs are an argument."""

Rows = list[tuple[str, str]]


def read_rows(split: str) -> Rows:
    """Questions with their answers."""
    file = Path(os.environ["PLUMBLINE_DATA"]) / f"easy_vqa/{split}.parquet"
    table = pq.read_table(file, columns=["question", "answer"])
    return list(zip(table["question"].to_pylist(), table["answer"].to_pylist(), strict=True))


def frame(rows: Rows, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Rows as the task writes them, without the image.

    Returns:
        ids and labels, [rows, seq] int64 each: question <bos> answer <eos>, of which the answer
        and its end have labels.
    """
    named = SpecialIds(**{role: getattr(tokenizer, f"{role}_token_id") for role in ROLES})
    asked, said = (tokenizer([row[at] for row in rows])["input_ids"] for at in (0, 1))
    pairs = zip(map(np.array, asked), map(np.array, said), strict=True)
    joined = [join_segment(pair, named, MOST_TOKENS) for pair in pairs]
    ids = pad_rows([each for each, _ in joined], named.pad)
    labels = pad_rows([each for _, each in joined], IGNORE_INDEX)
    return torch.from_numpy(ids), torch.from_numpy(labels)


def exact_match(model: Qwen3ForCausalLM, ids: Tensor, labels: Tensor) -> float:
    """Share of rows of [rows, seq] whose answer a greedy decoder would give word for word."""
    right = 0
    with torch.inference_mode():
        for rows, wanted in zip(ids.split(512), labels.split(512), strict=True):
            said = model(input_ids=rows).logits[:, :-1].argmax(-1)  # [rows, seq - 1]
            counts = wanted[:, 1:] != IGNORE_INDEX
            right += int(((said == wanted[:, 1:]) | ~counts).all(1).sum())
    return right / len(ids)


def make_decoder(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 type of random weights."""
    torch.manual_seed(SEED)
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCAB, **DECODER, **special))


def learn_words(model: Qwen3ForCausalLM, ids: Tensor, labels: Tensor) -> None:
    """Train on [rows, seq] of questions and answers without images."""
    per_epoch = len(ids) // WORDS_BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = WORDS_EPOCHS * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.05)
    for _ in range(WORDS_EPOCHS):
        order = torch.randperm(len(ids))[: per_epoch * WORDS_BATCH]
        for chosen in order.split(WORDS_BATCH):
            loss = model(input_ids=ids[chosen], labels=labels[chosen]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def write_decoder(folder: Path) -> dict[str, Any]:
    """A Qwen3 type that has learned to answer, as transformers saves it; what it is."""
    train = read_rows("train")
    texts = [text for row in train for text in row]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts, TokenizerConfig(vocab_size=VOCAB)),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
    )
    model = make_decoder(tokenizer)
    learn_words(model, *frame(train, tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    alone = exact_match(model, *frame(read_rows("test"), tokenizer))
    return {"decoder_parameters": count(model), "words_alone": round(alone, 4)}


def write_tower(folder: Path) -> dict[str, Any]:
    """A SigLIP type of random weights with its processor; what it is."""
    torch.manual_seed(SEED)
    sizes = SiglipConfig(
        vision_config={**TOWER, "image_size": SIDE, "patch_size": 16},
        text_config={**TOWER, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2},
    )
    model = SiglipModel(sizes)
    model.save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return {"tower_parameters": count(model.vision_model)}


def count(model: torch.nn.Module) -> int:
    """Parameters of a model."""
    return sum(each.numel() for each in model.parameters())


def open_checkout(folder: Path, side: str, epochs: int) -> Checkout:
    """A checkout with the recipe of a side, made unless it is there."""
    recipe = folder / "conf/experiment/side.yaml"
    checkout = Checkout(folder)
    if not recipe.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        checkout = make_checkout(folder)
        checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: side")
    recipe.write_text(SIDES[side].replace("EPOCHS", str(epochs)), encoding="utf-8")
    checkout.run(sys.executable, "-m", "stages.check_params", "--write")
    return checkout


def reproduce(checkout: Checkout) -> dict[str, Any]:
    """Run all stages and the bundle's self-test; what came out."""
    # Progress goes to stderr; a checkout's own `run` gives up after a quarter of an hour.
    subprocess.run(
        ("dvc", "repro"),
        cwd=checkout.folder,
        env=checkout.environment,
        stdout=sys.stderr,
        check=True,
    )
    bundle = checkout.folder / paths.export("vqa")
    checkout.run(sys.executable, str(bundle / "inference.py"), "--selftest")
    formats = read_json(bundle / "metadata.json")["formats"]
    parity = {name: {"status": each["status"], **each["parity"]} for name, each in formats.items()}
    metrics = read_json(checkout.folder / "metrics/tasks/vqa.json")
    training = read_json(checkout.folder / paths.finetuned("vqa") / "metrics.json")
    return {
        "exact_match": round(metrics["exact_match"], 4),
        "parity": parity,
        "adapter": training.get("adapters", {}).get("decoder"),
    }


def measure(folder: Path, epochs: int) -> dict[str, Any]:
    """Both sides, one after the other."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"epochs": epochs, "torch": torch.__version__}
    for side in SIDES:
        checkout = open_checkout(folder / side, side, epochs)
        if side == "from_checkpoints":
            found |= write_checkpoints(checkout.folder / "checkpoints")
        found[side] = reproduce(checkout)
    return found


def write_checkpoints(folder: Path) -> dict[str, Any]:
    """Both checkpoints, unless they are there; what they are."""
    facts = folder / "facts.json"
    if not facts.is_file():
        written = write_tower(folder / "siglip") | write_decoder(folder / "qwen3")
        facts.write_text(json.dumps(written), encoding="utf-8")
    return dict(read_json(facts))


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.both_phases", description=__doc__)
    parser.add_argument("--epochs", type=int, default=6, help="of fine-tuning from checkpoints")
    parser.add_argument("--folder", type=Path, help="where the checkouts stay")
    options = parser.parse_args(arguments)
    if "PLUMBLINE_DATA" not in os.environ:
        raise SystemExit("PLUMBLINE_DATA: name the folder that holds easy_vqa/")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        print(json.dumps(measure(folder, options.epochs)))


if __name__ == "__main__":
    main(sys.argv[1:])
