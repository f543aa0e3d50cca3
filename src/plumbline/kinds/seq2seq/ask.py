"""Ask a stored model for the target of a source."""

from pathlib import Path
from typing import Any

from plumbline.asking import Answer, Options, _cut


def answer_seq2seq(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The target of a source."""
    spec = stored.spec
    ids = stored.text.encode(options.source, add_special_tokens=False).ids
    target = stored.model.generate(
        [[*ids[: spec.max_source_tokens], spec.special_ids.eos]],
        beams=options.beams or 4,
        length_penalty=1.0 if options.length_penalty is None else options.length_penalty,
        limit=options.max_new_tokens or 100,
    )[0]
    return {
        "source": options.source,
        "text": stored.text.decode(target),
        **_cut(len(ids) - spec.max_source_tokens),
    }
