"""Ask a stored model to fill the gaps of a text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbline.asking import Answer, Ask, Options, positive
from plumbline.errors import ConfigError
from plumbline.kinds.language.ask import of_tokens


def answer(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The likeliest tokens of each gap of a text."""
    import torch

    from plumbline.kinds.masked_lm.model import takes_space
    from plumbline.kinds.masked_lm.runtime import fill_gaps, gap_ids, split_gaps

    spec, tokenizer = stored.spec, stored.text
    mask = tokenizer.id_to_token(spec.mask_id)
    segments = split_gaps(options.text, mask, takes_space(tokenizer))
    if len(segments) < 2:
        raise ConfigError(f"--text: has no {mask} to fill")
    frame = None if spec.packed else (spec.special_ids.bos, spec.special_ids.eos)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    ids = torch.tensor([gap_ids(segments, encode, spec.mask_id, frame)], device=device)
    if ids.shape[1] > spec.block_size:
        raise ConfigError(f"--text: {ids.shape[1]} tokens, the model takes {spec.block_size}")
    with torch.inference_mode():
        logits = stored.model(ids, torch.ones_like(ids))[0][ids[0] == spec.mask_id]
    return fill_gaps(
        segments, logits.float().cpu().numpy(), options.candidates or 5, decode_with(stored)
    )


def decode_with(stored: Any) -> Callable[[list[int]], str]:
    """The text of token ids."""
    return lambda ids: str(stored.text.decode(ids))


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
