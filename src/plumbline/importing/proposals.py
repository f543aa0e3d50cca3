"""The model and the training that are proposed for a kind of work, as settings of a task."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from plumbline.importing.drafts import Draft
from plumbline.importing.sizes import Sizes, Worked
from plumbline.importing.tables import Settings

MAX_STEPS = 4096
"""Of feature sequences; longer ones are cut."""


@dataclass(frozen=True)
class Proposal:
    """Settings beside those of the dataset's source, and what they come to in words."""

    words: str
    task: Settings | None = None
    align: Settings | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    """Group of `conf/` that a section of the task begins with -> its file."""


@dataclass(frozen=True)
class Subject:
    """What is proposed for."""

    name: str
    draft: Draft
    sizes: Sizes
    split: str
    """That is measured."""
    rules: Settings
    """Of validation, beside views and splits."""
    validates: bool
    """Whether there will be a validation split."""


def propose(subject: Subject) -> Proposal:
    """The proposal for a draft's kind of work."""
    kind = subject.draft.plan.kind
    proposal = PROPOSALS[kind](subject)
    task = None if proposal.task is None else {"kind": kind, **proposal.task}
    return replace(proposal, task=task)


def _trainer(subject: Subject, epochs: int, **more: object) -> Settings:
    every = max(1, epochs // 5) if subject.validates else 0
    return {"epochs": epochs, "validate_every_epochs": every, **more}


def _image_encoder(sizes: Sizes) -> tuple[Settings, int]:
    """Residual blocks and the last width; by group norm no sample depends on its batch."""
    widths = (32, 64, 128) if sizes.small and not sizes.machine.gpus else (64, 128, 256)
    encoder: Settings = {
        "name": "resnet",
        "image_size": sizes.side,
        "channels": 3,
        "stem_channels": 32,
        "stem_stride": 1 if sizes.side <= 48 else 2,
        "stages": [{"channels": width, "blocks": 1, "stride": 2} for width in widths],
        "norm": "group",
    }
    return encoder, widths[-1]


def _steps_encoder(sizes: Sizes, max_steps: int) -> Settings:
    width = 64 if sizes.small else 128
    strides = (2, 2, 1)
    return {
        "name": "sequence",
        "convs": [{"channels": width, "kernel": 5, "stride": stride} for stride in strides],
        "width": width,
        "layers": 0,
        "heads": 4,
        "mlp_width": 2 * width,
        "dropout": 0.1,
        "max_steps": max_steps,
        "pooling": "mean",
        "flatten": False,
    }


def _text_encoder(sizes: Sizes, tokens: int) -> Settings:
    return {
        "name": "transformer",
        "pretrained": None,
        "width": 64 if sizes.small else 128,
        "layers": 1 if sizes.small else 2,
        "heads": 4,
        "mlp_width": 256 if sizes.small else 512,
        "max_tokens": tokens + 2,
        "dropout": 0.2,
        "pooling": "mean",
    }


def _image_inputs(sizes: Sizes, *, augment: bool) -> Settings:
    crop = {"enlarge": 0, "padding": sizes.side // 16 if augment else 0, "flip": 0.0}
    return {
        "modality": "image",
        "normalize": {"preset": "half", "mean": None, "std": None},
        "resize": None,
        "augment": {**crop, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0},
    }


def _audio_inputs() -> Settings:
    masks = {"time_masks": 0, "time_width": 0, "time_share": 1.0, "mel_masks": 0, "mel_width": 0}
    return {
        "modality": "audio",
        "sample_rate": 16000,
        "n_mels": 64,
        "window_ms": 25.0,
        "hop_ms": 10.0,
        "fft": 400,
        "edges": "reflect",
        "normalize": "clip",
        "scale": "log",
        "augment": {"shift_ms": 0.0, "gain_db": 0.0, **masks},
    }


def _audio_steps(sizes: Sizes) -> int:
    """Frames of the longest clip, with room for one that is half as long again."""
    return 256 * math.ceil(150 * max(sizes.clip_seconds, 1.0) / 256)


@dataclass(frozen=True)
class _Reader:
    """What is classified or measured, and what reads it."""

    what: Worked
    encoder: Settings
    inputs: Settings
    words: str


def _reader(subject: Subject) -> _Reader:
    sizes, medium = subject.sizes, subject.draft.plan.needs[0]
    if medium == "image":
        encoder, last = _image_encoder(sizes)
        words = f"a residual network of {last} channels on {sizes.side} x {sizes.side} pixels"
        return _Reader("image", encoder, _image_inputs(sizes, augment=True), words)
    if medium == "text":
        tokens = sizes.tokens("text")
        encoder = _text_encoder(sizes, tokens)
        words = f"a transformer {encoder['width']} wide, {encoder['layers']} deep"
        inputs: Settings = {"modality": "text", "column": "text", "max_tokens": tokens}
        return _Reader("text", encoder, {**inputs, "word_dropout": 0.1}, words)
    steps = _audio_steps(sizes) if medium == "audio" else MAX_STEPS
    encoder = _steps_encoder(sizes, steps)
    words = f"convolutions of {encoder['width']} channels over time"
    if medium == "audio":
        return _Reader("audio", encoder, _audio_inputs(), words)
    inputs = {"modality": "features", "standardize": True, "max_steps": MAX_STEPS}
    return _Reader("features", encoder, inputs, words)


def _headed(subject: Subject, task: Settings) -> Proposal:
    reader, sizes = _reader(subject), subject.sizes
    epochs = sizes.epochs(reader.what)
    train: Settings = {
        "freeze": [],
        "adapters": {},
        "model": {"encoder": reader.encoder, "head_dropout": 0.1, "num_classes": {}},
        "task": {"inputs": reader.inputs, **task},
        "loader": {"batch_size": sizes.batch},
        "trainer": _trainer(subject, epochs, optim={"lr": 1.0e-3, "weight_decay": 0.05}),
    }
    evaluate: Settings = {"split": subject.split, "batch_size": 256, "metrics": []}
    words = f"{reader.words}, {epochs} epochs in batches of {sizes.batch}"
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    return Proposal(words, entry, groups={"export": "default"})


def classification(subject: Subject) -> Proposal:
    """A classifier from new weights."""
    how = subject.sizes.class_weights
    task = {"loss": "cross_entropy", "label_smoothing": 0.1, "class_weights": how}
    proposal = _headed(subject, task)
    weighed = ", classes weighed to balance" if how == "balanced" else ""
    return replace(proposal, words=f"{proposal.words}{weighed}")


def regression(subject: Subject) -> Proposal:
    """A regressor from new weights."""
    return _headed(subject, {"loss": "squared_error", "row_weights": False})


def _decoder(sizes: Sizes, positions: int) -> Settings:
    width, layers = (128, 3) if sizes.small or not sizes.machine.gpus else (384, 6)
    shape = {"width": width, "layers": layers, "heads": 4, "kv_heads": 4, "mlp_width": 3 * width}
    return {"pretrained": None, **shape, "max_positions": positions}


def causal_lm(subject: Subject) -> Proposal:
    """A decoder from new weights, on texts, questions with answers, or conversations."""
    sizes, needs = subject.sizes, subject.draft.plan.needs
    text = {"turns": "turns", "text": "text", "question": "question_answer"}[needs[0]]
    block = 128 if text == "text" else sizes.tokens(*needs)
    block = max(block, 128)
    decoder, epochs = _decoder(sizes, block), sizes.epochs("text")
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
        "loader": {"batch_size": min(32, sizes.batch)},
        "trainer": _trainer(subject, epochs, optim={"lr": 2.0e-3, "weight_decay": 0.1}),
    }
    evaluate: Settings = {
        "metrics": [],
        "split": subject.split,
        "batch_size": 64,
        "prompts": [],
        "sampling": {**sampling, "stop": [], "seed": 0},
    }
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    words = f"a decoder {decoder['width']} wide with {decoder['layers']} layers, blocks of {block}"
    return Proposal(f"{words} tokens, {epochs} epochs", entry, groups={"export": "causal_lm"})


def masked_lm(subject: Subject) -> Proposal:
    """An encoder that guesses hidden tokens."""
    sizes = subject.sizes
    epochs = sizes.epochs("text")
    shape = {"width": 128, "layers": 3, "heads": 4, "mlp_width": 512, "max_positions": 128}
    train: Settings = {
        "freeze": [],
        "adapters": {},
        "model": {"pretrained": None, **shape, "dropout": 0.0},
        "task": {"block_size": 128, "rows": "auto", "masked_share": 0.15, "loss": "cross_entropy"},
        "loader": {"batch_size": min(32, sizes.batch)},
        "trainer": _trainer(subject, epochs, optim={"lr": 1.0e-3, "weight_decay": 0.1}),
    }
    evaluate: Settings = {"split": subject.split, "batch_size": 64, "metrics": []}
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    words = f"an encoder 128 wide with 3 layers, {epochs} epochs"
    return Proposal(words, entry, groups={"export": "masked_lm"})


def seq2seq(subject: Subject) -> Proposal:
    """An encoder-decoder from new weights."""
    sizes = subject.sizes
    read, written, epochs = sizes.tokens("source"), sizes.tokens("target"), sizes.epochs("text")
    width = 128 if sizes.small else 256
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
        "loader": {"batch_size": min(64, sizes.batch), "bucket_by_length": True},
        "trainer": _trainer(subject, epochs, optim={"lr": 1.0e-3, "weight_decay": 0.05}),
    }
    beams = {"beams": 4, "length_penalty": 1.0, "max_new_tokens": min(written, 100)}
    evaluate: Settings = {"split": subject.split, "batch_size": 64, **beams}
    evaluate |= {"bleu_tokenizer": "auto", "metrics": []}
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    words = f"an encoder-decoder {width} wide with 2 + 2 layers, {epochs} epochs"
    return Proposal(words, entry, groups={"export": "seq2seq"})


def _vit(sizes: Sizes) -> Settings:
    strides = [32, 64, 128, 128]
    return {
        "name": "vit",
        "image_size": sizes.side,
        "channels": 3,
        "patch_size": 16,
        "width": 128,
        "layers": 2 if sizes.small else 4,
        "heads": 4,
        "mlp_width": 384,
        "dropout": 0.0,
        "conv_stem": [{"channels": width, "stride": 2, "kernel": 3} for width in strides],
        "feature_layers": [0, -1],
    }


def alignment(subject: Subject) -> Proposal:
    """Two towers from new weights, of images or sounds and of texts."""
    sizes, medium = subject.sizes, subject.draft.plan.needs[0]
    is_image = medium == "image"
    tokens = min(sizes.tokens("caption"), 126)
    epochs = sizes.epochs("vlm" if is_image else "audio")
    inputs = _image_inputs(sizes, augment=False) if is_image else _audio_inputs()
    # Every pair of a step is told from the others: the last few pairs alone would say little.
    batch = max(2, min(128, sizes.train_rows // 2))
    train: Settings = {
        "model": {
            "image_encoder": _vit(sizes) if is_image else None,
            "audio_encoder": None if is_image else _steps_encoder(sizes, _audio_steps(sizes)),
            "text_encoder": _text_encoder(sizes, tokens),
            "embed_dim": 64,
            "initial_temperature": 0.07,
            "min_temperature": 0.01,
        },
        "freeze": [],
        "adapters": {},
        "task": {
            "inputs": inputs,
            "loss": "info_nce",
            "widths": [],
            "sample_width": False,
            "text_dropout": 0.0,
            "max_text_tokens": tokens,
        },
        "loader": {"batch_size": batch, "drop_last": True},
        "trainer": _trainer(subject, epochs, optim={"lr": 1.0e-3, "weight_decay": 0.05}),
    }
    evaluate: Settings = {
        "split": subject.split,
        "ks": [1, 5, 10],
        "batch_size": 256,
        "examples": 8,
    }
    entry: Settings = {"train": train, "evaluate": {**evaluate, "zero_shot": [], "metrics": []}}
    side = f" on {sizes.side} x {sizes.side} pixels" if is_image else ""
    words = f"encoders of {medium} and text in one space{side}, {epochs} epochs"
    return Proposal(f"{words}; nothing to export", align=entry)


def vlm(subject: Subject) -> Proposal:
    """An alignment of images and texts, and a decoder on its image encoder."""
    sizes, aligned, columns = subject.sizes, alignment(subject), subject.draft.columns
    asks, captioned = ("question" in columns, "caption" in columns)
    epochs, tokens = sizes.epochs("vlm"), min(sizes.tokens("caption", "question", "answer"), 126)
    shape = {"width": 128, "layers": 3, "heads": 4, "kv_heads": 4, "mlp_width": 384}
    train: Settings = {
        "freeze": ["image_encoder"],
        "adapters": {},
        "model": {
            "projector": {"name": "mlp", "width": 256},
            "decoder": {"pretrained": None, **shape, "max_positions": 1024},
        },
        "task": {
            "text": "question_answer",
            "block_size": 512,
            "caption_prompt": "describe the image",
            "captions_per_image": 1 if captioned else 0,
            "questions_per_image": None if asks else 0,
            "max_text_tokens": tokens,
            "rows": "padded",
            "loss": "cross_entropy",
        },
        "loader": {"batch_size": min(32, sizes.batch)},
        "trainer": _trainer(subject, epochs, optim={"lr": 2.0e-3, "weight_decay": 0.05}),
    }
    evaluate: Settings = {
        "split": subject.split,
        "batch_size": 64,
        "max_new_tokens": min(tokens, 64),
    }
    evaluate |= {"bleu_tokenizer": "auto", "metrics": []}
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    words = aligned.words.partition(";")[0]
    return Proposal(
        f"{words}; then a decoder 128 wide with 3 layers on these images, {epochs} epochs",
        entry,
        aligned.align,
        {"export": "vlm"},
    )


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
