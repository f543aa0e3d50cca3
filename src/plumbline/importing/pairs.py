"""What is proposed for images or sounds with texts: two towers, or a decoder that sees images."""

from dataclasses import replace

from plumbline.importing.answers import captions_of_answers
from plumbline.importing.encoders import (
    audio_inputs,
    audio_steps,
    image_inputs,
    image_tokens,
    steps_encoder,
    text_encoder,
    vit,
)
from plumbline.importing.sizes import STEPS, Sizes, Worked
from plumbline.importing.subjects import Proposal, Subject, trainer
from plumbline.importing.tables import Settings

CAPTION_PROMPT = "describe the image"
ANSWERS_PROMPT = "ask a question about the image and answer it"
"""Of captions that are questions with their answers."""
PAIRS = 64
"""Of a step of an alignment, where the data has as many."""


def alignment(subject: Subject) -> Proposal:
    """Two towers from new weights, of images or sounds and of texts."""
    sizes = subject.sizes
    return _aligned(subject, min(sizes.tokens("caption"), 126))


def _aligned(subject: Subject, tokens: int) -> Proposal:
    """The same, of captions with so many tokens."""
    sizes, medium = subject.sizes, subject.draft.plan.needs[0]
    is_image = medium == "image"
    what: Worked = "pairs" if is_image else "audio"
    epochs, samples = sizes.epochs(what), sizes.samples(what)
    inputs = image_inputs(sizes, augment=False) if is_image else audio_inputs()
    # Every pair of a step is told from the others: a few, as the last ones alone, would say little.
    batch = max(2, min(max(PAIRS, sizes.batch(what)), samples // 2))
    train: Settings = {
        "model": {
            "image_encoder": vit(sizes) if is_image else None,
            "audio_encoder": None if is_image else steps_encoder(sizes, audio_steps(sizes)),
            "text_encoder": text_encoder(sizes, tokens, dropout=0.0),
            "embed_dim": 128,
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
        "trainer": trainer(subject, epochs, optim={"lr": 1.0e-3, "weight_decay": 0.05}),
    }
    evaluate: Settings = {
        "split": subject.split,
        "ks": [1, 5, 10],
        "batch_size": 256,
        "examples": 8,
    }
    export: Settings = {
        # Of one that a task starts from, the encoder is in the bundle of that.
        "enabled": subject.draft.plan.kind == "alignment",
        "split": subject.split,
        "gallery_split": "val" if subject.validates else subject.split,
    }
    entry: Settings = {
        "train": train,
        "evaluate": {**evaluate, "zero_shot": [], "metrics": []},
        "export": export,
    }
    side = f" on {sizes.side} x {sizes.side} pixels" if is_image else ""
    words = f"encoders of {medium} and text in one space{side}, {epochs} epochs"
    return Proposal(words, align=entry)


def _first_aligned(subject: Subject) -> Proposal | None:
    """The alignment that the encoder of a `vlm` comes from; None where nothing tells images apart.

    That is done by captions, or by answers that few questions share, such as colours: of yes and
    no half of all images are right. An encoder that learns from answers alone, through the
    decoder, takes several times as long.
    """
    sizes, columns = subject.sizes, subject.draft.columns
    if "caption" in columns:
        return alignment(subject)
    captions = captions_of_answers(sizes)
    if captions is None:
        return None
    tokens = min(_tokens_of_pairs(sizes), 126)
    return replace(_aligned(subject, tokens), source=captions.source, notes=(captions.words,))


def _tokens_of_pairs(sizes: Sizes) -> int:
    """Tokens to make room for in captions that are questions with their answers."""
    return sizes.tokens("question") + sizes.tokens("answer")


def vlm(subject: Subject) -> Proposal:
    """A decoder that sees images, through the encoder of an alignment where there can be one."""
    if "turns" in subject.draft.plan.needs:
        return _talks(subject)
    sizes, columns = subject.sizes, subject.draft.columns
    aligned = _first_aligned(subject)
    # Of answers too: who can tell of an image what is asked sees what a question has to match.
    of_answers = aligned is not None and bool(aligned.source)
    longest = sizes.tokens("caption", "question", "answer")
    tokens = min(_tokens_of_pairs(sizes) if of_answers else longest, 126)
    task: Settings = {
        "text": "question_answer",
        "block_size": 512,
        "caption_prompt": ANSWERS_PROMPT if of_answers else CAPTION_PROMPT,
        "captions_per_image": 1 if "caption" in columns or of_answers else 0,
        "questions_per_image": None if "question" in columns else 0,
        "max_text_tokens": tokens,
        "rows": "padded",
        "inputs": None if aligned else image_inputs(sizes, augment=False),
        "loss": "cross_entropy",
    }
    proposal = _seeing(subject, task, positions=1024, tokens=tokens, aligned=aligned is not None)
    if aligned is None:
        return proposal
    of = " by answers that few questions share" if of_answers else ""
    words = f"{aligned.words}{of}; then {proposal.words}"
    return replace(
        proposal, words=words, align=aligned.align, source=aligned.source, notes=aligned.notes
    )


def _talks(subject: Subject) -> Proposal:
    """The same for conversations that show images, which nothing describes by themselves."""
    sizes = subject.sizes
    block = sizes.tokens("turns") + sizes.images_a_row * image_tokens(sizes)
    task: Settings = {
        "text": "turns",
        "block_size": block,
        "caption_prompt": CAPTION_PROMPT,
        "captions_per_image": 1,
        "questions_per_image": None,
        "max_text_tokens": 64,
        "rows": "packed",
        "inputs": image_inputs(sizes, augment=False),
        "loss": "cross_entropy",
    }
    return _seeing(subject, task, positions=block, tokens=sizes.tokens("turns"), aligned=False)


def _seeing(
    subject: Subject, task: Settings, *, positions: int, tokens: int, aligned: bool
) -> Proposal:
    """A decoder of texts of so many tokens and, unless it is aligned, an encoder with it."""
    sizes, epochs = subject.sizes, subject.sizes.epochs("vlm")
    shape = {"width": 128, "layers": 3, "heads": 4, "kv_heads": 4, "mlp_width": 384}
    # An encoder from nothing learns at half the rate that a projector and a decoder bear, and in
    # twice the steps.
    optim = {"lr": 2.0e-3 if aligned else 1.0e-3, "weight_decay": 0.05}
    batch = sizes.batch("vlm", 32, STEPS // 2 if aligned else STEPS)
    train: Settings = {
        "freeze": ["image_encoder"] if aligned else [],
        "adapters": {},
        "model": {
            "image_encoder": None if aligned else vit(sizes),
            "projector": {"name": "mlp", "width": 256},
            "decoder": {"pretrained": None, **shape, "max_positions": positions},
        },
        "task": task,
        "loader": {"batch_size": batch},
        "trainer": trainer(subject, epochs, optim=optim),
    }
    evaluate: Settings = {
        "split": subject.split,
        "batch_size": 64,
        "max_new_tokens": min(tokens, 64),
        "bleu_tokenizer": "auto",
        "metrics": [],
    }
    entry: Settings = {"train": train, "evaluate": evaluate, "export": {"split": subject.split}}
    seen = "" if aligned else f"an encoder of {sizes.side} x {sizes.side} pixels and "
    words = f"{seen}a decoder 128 wide with 3 layers on these images, {epochs} epochs"
    return Proposal(words, entry, groups={"export": "vlm"})
