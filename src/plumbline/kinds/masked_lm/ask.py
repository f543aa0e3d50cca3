"""Ask a stored model to fill the gaps of a text."""

from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.asking import Answer, Ask, Options, positive
from plumbline.errors import ConfigError
from plumbline.kinds.language.ask import of_tokens

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plumbline.models.spec import ModelSpec
    from plumbline.models.stored import Stored


def answer(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, device: "torch.device", folder: Path
) -> Answer:
    """The likeliest tokens of each gap of a text."""
    import torch

    from plumbline.kinds.masked_lm.model import MaskedLm, MaskedLmSpec, takes_space
    from plumbline.kinds.masked_lm.runtime import fill_gaps, gap_ids, split_gaps

    spec, tokenizer = stored.spec, stored.text
    assert isinstance(spec, MaskedLmSpec)
    assert isinstance(stored.model, MaskedLm)
    mask = tokenizer.id_to_token(spec.mask_id)
    assert mask is not None, "training has found it there"
    segments = split_gaps(options.text, mask, takes_space(tokenizer))
    if len(segments) < 2:
        raise ConfigError(f"--text: has no {mask} to fill")
    # A stream has no bos in front of each of its blocks.
    frame = None if spec.packed else (spec.special_ids.bos, spec.special_ids.eos)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    ids = torch.tensor([gap_ids(segments, encode, spec.mask_id, frame)], device=device)
    if ids.shape[1] > spec.block_size:
        raise ConfigError(f"--text: {ids.shape[1]} tokens, the model takes {spec.block_size}")
    with torch.inference_mode():
        logits = stored.model(ids, torch.ones_like(ids))[0][ids[0] == spec.mask_id]
    scores = logits.float().cpu().numpy()  # [gaps, vocab]
    return fill_gaps(segments, scores, options.candidates or 5, tokenizer.decode)


ASK = Ask(
    answer,
    required="text",
    options={
        "candidates": {
            "type": positive("--candidates"),
            "metavar": "N",
            "help": "tokens named for a gap",
        }
    },
)

predictions = of_tokens
