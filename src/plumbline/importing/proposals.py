"""The model and the training that are proposed for a kind of work, as settings of a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from plumbline.importing.encoders import (
    MAX_STEPS,
    audio_inputs,
    audio_steps,
    image_encoder,
    image_inputs,
    steps_encoder,
    text_encoder,
)
from plumbline.importing.pairs import alignment, vlm
from plumbline.importing.sizes import Sizes, Worked
from plumbline.importing.subjects import Proposal, Subject, trainer
from plumbline.importing.tables import Settings


def propose(subject: Subject) -> Proposal:
    """The proposal for a draft's kind of work."""
    kind = subject.draft.plan.kind
    proposal = PROPOSALS[kind](subject)
    task = None if proposal.task is None else {"kind": kind, **proposal.task}
    return replace(proposal, task=task)


@dataclass(frozen=True)
class _Training:
    """How a network learns from nothing."""

    optim: str
    """A file of `conf/optim`."""
    trainer: Settings
    norm: str = "group"
    """Of convolutions on images; by group norm no sample depends on its batch."""


_BY_ADAMW = _Training("adamw", {"optim": {"lr": 1.0e-3, "weight_decay": 0.05}})
FEWEST_OF_BATCH_NORM = 64
"""Samples of a batch whose means say enough for batch norm."""


def _training_of_images(batch: int) -> _Training:
    """That of a residual network that tells classes apart.

    In large batches batch norm and SGD in one cycle learn in a few epochs what group norm and
    AdamW take many for. Source: Smith and Topin 2017, arXiv:1708.07120.
    """
    if batch < FEWEST_OF_BATCH_NORM:
        return _BY_ADAMW
    optim = {"lr": 0.2 * batch / 128, "weight_decay": 5.0e-4}
    cycle = {"name": "one_cycle", "warmup_share": 0.3}
    return _Training("sgd", {"max_grad_norm": None, "optim": optim, "schedule": cycle}, "batch")


@dataclass(frozen=True)
class _Reader:
    """What is classified or measured, and what reads it."""

    what: Worked
    encoder: Settings
    inputs: Settings
    words: str


def _reader(subject: Subject, norm: str) -> _Reader:
    sizes, medium = subject.sizes, subject.draft.plan.needs[0]
    if medium == "image":
        encoder, last = image_encoder(sizes, norm)
        words = f"a residual network of {last} channels on {sizes.side} x {sizes.side} pixels"
        return _Reader("image", encoder, image_inputs(sizes, augment=True), words)
    if medium == "text":
        tokens = sizes.tokens("text")
        encoder = text_encoder(sizes, tokens)
        words = f"a transformer {encoder['width']} wide, {encoder['layers']} deep"
        inputs: Settings = {"modality": "text", "column": "text", "max_tokens": tokens}
        return _Reader("text", encoder, {**inputs, "word_dropout": 0.1}, words)
    steps = audio_steps(sizes) if medium == "audio" else MAX_STEPS
    encoder = steps_encoder(sizes, steps)
    words = f"convolutions of {encoder['width']} channels over time"
    if medium == "audio":
        return _Reader("audio", encoder, audio_inputs(), words)
    inputs = {"modality": "features", "standardize": True, "max_steps": MAX_STEPS}
    return _Reader("features", encoder, inputs, words)


def _headed(subject: Subject, task: Settings, training: _Training) -> Proposal:
    reader, sizes = _reader(subject, training.norm), subject.sizes
    epochs, batch = sizes.epochs(reader.what), sizes.batch(reader.what)
    train: Settings = {
        "freeze": [],
        "adapters": {},
        "model": {"encoder": reader.encoder, "head_dropout": 0.1, "num_classes": {}},
        "task": {"inputs": reader.inputs, **task},
        # A last batch of a few samples would have other means than all others.
        "loader": {"batch_size": batch, "drop_last": training.norm == "batch"},
        "trainer": trainer(subject, epochs, **training.trainer),
    }
    evaluate: Settings = {"split": subject.split, "batch_size": 256, "metrics": []}
    words = f"{reader.words}, {epochs} epochs in batches of {batch}"
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    return Proposal(words, entry, groups={"export": "default"}, optim=training.optim)


def classification(subject: Subject) -> Proposal:
    """A classifier from new weights."""
    how = subject.sizes.class_weights
    task = {"loss": "cross_entropy", "label_smoothing": 0.1, "class_weights": how}
    is_image = subject.draft.plan.needs[0] == "image"
    training = _training_of_images(subject.sizes.batch("image")) if is_image else _BY_ADAMW
    proposal = _headed(subject, task, training)
    weighed = ", classes weighed to balance" if how == "balanced" else ""
    return replace(proposal, words=f"{proposal.words}{weighed}")


def regression(subject: Subject) -> Proposal:
    """A regressor from new weights."""
    return _headed(subject, {"loss": "squared_error", "row_weights": False}, _BY_ADAMW)


def _language_optim(sizes: Sizes, width: int, adamw: Settings) -> tuple[str, Settings]:
    """The optimiser of a language model from nothing: its file in `conf/optim`, and its settings.

    Muon learns more from a step than AdamW, and its iterations are in bf16: without units for it
    they take longer than the step. Its rate goes down as matrices become wider.
    """
    if sizes.small or not sizes.machine.bf16:
        return "adamw", adamw
    rate = round(0.01 * 128 / width, 4)
    return "muon", {**adamw, "lr": rate, "muon": {"adamw_lr_ratio": 0.4}}


def _decoder(sizes: Sizes, positions: int) -> tuple[Settings, int]:
    """A decoder and its width."""
    width, layers = (128, 3) if sizes.small or not sizes.machine.gpus else (384, 6)
    shape = {"width": width, "layers": layers, "heads": 4, "kv_heads": 4, "mlp_width": 3 * width}
    return {"pretrained": None, **shape, "max_positions": positions}, width


def causal_lm(subject: Subject) -> Proposal:
    """A decoder from new weights, on texts, questions with answers, or conversations."""
    sizes, needs = subject.sizes, subject.draft.plan.needs
    text = {"turns": "turns", "text": "text", "question": "question_answer"}[needs[0]]
    block = 128 if text == "text" else sizes.tokens(*needs)
    block = max(block, 128)
    (decoder, width), epochs = _decoder(sizes, block), sizes.epochs("text")
    optim = _language_optim(sizes, width, {"lr": 2.0e-3, "weight_decay": 0.1})
    sampling = {"max_new_tokens": 50, "temperature": 0.0, "top_k": None, "top_p": None}
    train: Settings = {
        "freeze": [],
        "adapters": {},
        "model": {"decoder": decoder},
        "task": {
            "text": text,
            "block_size": block,
            "rows": "auto" if text == "text" else "packed",
            "loss": "cross_entropy",
            "label_smoothing": 0.0,
        },
        "loader": {"batch_size": sizes.batch("text", 32)},
        "trainer": trainer(subject, epochs, optim=optim[1]),
    }
    evaluate: Settings = {
        "metrics": [],
        "split": subject.split,
        "batch_size": 64,
        "prompts": [],
        "sampling": {**sampling, "stop": [], "seed": 0},
    }
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    words = f"a decoder {width} wide with {decoder['layers']} layers, blocks of {block}"
    return Proposal(
        f"{words} tokens, {epochs} epochs", entry, groups={"export": "causal_lm"}, optim=optim[0]
    )


def masked_lm(subject: Subject) -> Proposal:
    """An encoder that guesses hidden tokens."""
    sizes = subject.sizes
    epochs = sizes.epochs("text")
    optim = _language_optim(sizes, 128, {"lr": 1.0e-3, "weight_decay": 0.1})
    shape = {"width": 128, "layers": 3, "heads": 4, "mlp_width": 512, "max_positions": 128}
    train: Settings = {
        "freeze": [],
        "adapters": {},
        "model": {"pretrained": None, **shape, "dropout": 0.0},
        "task": {"block_size": 128, "rows": "auto", "masked_share": 0.15, "loss": "cross_entropy"},
        "loader": {"batch_size": sizes.batch("text", 32)},
        "trainer": trainer(subject, epochs, optim=optim[1]),
    }
    evaluate: Settings = {"split": subject.split, "batch_size": 64, "metrics": []}
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    words = f"an encoder 128 wide with 3 layers, {epochs} epochs"
    return Proposal(words, entry, groups={"export": "masked_lm"}, optim=optim[0])


def seq2seq(subject: Subject) -> Proposal:
    """An encoder-decoder from new weights."""
    sizes = subject.sizes
    read, written, epochs = sizes.tokens("source"), sizes.tokens("target"), sizes.epochs("text")
    width = 128 if sizes.small else 256
    optim = _language_optim(sizes, width, {"lr": 1.0e-3, "weight_decay": 0.05})
    shape = {"width": width, "encoder_layers": 2, "decoder_layers": 2, "heads": 4}
    positions = {"mlp_width": 2 * width, "max_positions": max(read, written) + 4, "dropout": 0.1}
    train: Settings = {
        "freeze": [],
        "adapters": {},
        "model": {"pretrained": None, **shape, **positions},
        "task": {
            "max_source_tokens": read,
            "max_target_tokens": written,
            "rows": "padded",
            "loss": "cross_entropy",
            "label_smoothing": 0.1,
        },
        "loader": {"batch_size": sizes.batch("text", 64), "bucket_by_length": True},
        "trainer": trainer(subject, epochs, optim=optim[1]),
    }
    beams = {"beams": 4, "length_penalty": 1.0, "max_new_tokens": min(written, 100)}
    evaluate: Settings = {"split": subject.split, "batch_size": 64, **beams}
    evaluate |= {"bleu_tokenizer": "auto", "metrics": []}
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    words = f"an encoder-decoder {width} wide with 2 + 2 layers, {epochs} epochs"
    return Proposal(words, entry, groups={"export": "seq2seq"}, optim=optim[0])


PROPOSALS: Mapping[str, Callable[[Subject], Proposal]] = {
    "alignment": alignment,
    "causal_lm": causal_lm,
    "classification": classification,
    "masked_lm": masked_lm,
    "regression": regression,
    "seq2seq": seq2seq,
    "vlm": vlm,
}
"""Kind of work -> what is proposed for it."""
