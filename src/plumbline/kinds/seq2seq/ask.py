"""Ask a stored model for the target of a source."""

from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.asking import ANSWER_TOKENS, Answer, Ask, Options, positive, say_cut_tokens
from plumbline.kinds.language.ask import of_tokens

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plumbline.models.spec import ModelSpec
    from plumbline.models.stored import Stored


def answer(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, device: "torch.device", folder: Path
) -> Answer:
    """The target of a source."""
    from plumbline.kinds.seq2seq.model import Seq2Seq, Seq2SeqSpec

    spec, model = stored.spec, stored.model
    assert isinstance(spec, Seq2SeqSpec)
    assert isinstance(model, Seq2Seq)
    ids = stored.text.encode(options.source, add_special_tokens=False).ids
    # What no option says is as in evaluation by default.
    target = model.generate(
        [[*ids[: spec.max_source_tokens], spec.special_ids.eos]],
        beams=options.beams or 4,
        length_penalty=1.0 if options.length_penalty is None else options.length_penalty,
        limit=options.max_new_tokens or 100,
    )[0]
    return {
        "source": options.source,
        "text": stored.text.decode(target),
        **say_cut_tokens(len(ids) - spec.max_source_tokens),
    }


ASK = Ask(
    answer,
    required="source",
    options={
        "beams": {"type": positive("--beams"), "metavar": "N", "help": "1: greedy"},
        "length_penalty": {"type": float, "metavar": "X"},
        **ANSWER_TOKENS,
    },
)

predictions = of_tokens
