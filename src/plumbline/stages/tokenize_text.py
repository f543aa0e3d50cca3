"""Stage `tokenize_text`: tokenizer, token ids and decoded images, each distinct value once."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline import paths
from plumbline.config import Config
from plumbline.data.columns import SPLITS
from plumbline.engines.base import EngineName, open_engine
from plumbline.files import dump_json, read_json, staged_output
from plumbline.shapes.distributed import DISTRIBUTIONS
from plumbline.stage import StageSpec, count, each, parse_call
from plumbline.tokenization.cache import build_cache
from plumbline.tokenization.cache_spread import describe_constant
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tracking.record import record_run

if TYPE_CHECKING:
    from plumbline.shapes.described import Shapes
    from plumbline.tokenization.facts import CacheFacts, ShardFacts

logger = logging.getLogger(__name__)

FEWEST_LEVELS = 16
"""Of 256: what shows anything spans more."""


class TokenizeTextConfig(Config):
    """Tokenizer and size of the cached images."""

    weights: str
    """Folder with the records of tokenizers of others: work/tokenizers/<set>."""
    tokenize: TokenizeConfig
    """What trainings read of the rows: ids of texts, decoded media."""
    engine: EngineName = "local"
    """Where the work is done: `local`, on this machine, or `ray`, on the cluster that `RAY_ADDRESS`
    names. It changes no byte of what any stage writes, and makes no stage run again."""


SPEC = StageSpec(
    name="tokenize_text",
    schema=TokenizeTextConfig,
    group="datasets",
    sections=lambda key: {
        "weights": f"datasets.{key}.weights",
        "tokenize": f"datasets.{key}.tokenize",
    },
    unkeyed=lambda key: {"engine": f"datasets.{key}.engine"},
)


def _media(number: int, what: str, shards: "ShardFacts | None") -> str:
    """How many there are, and how they lie where that is not decoded."""
    if shards is None:
        return count(number, what)
    reduced = "reduced and " if shards["form"] == "png" else ""
    return f"{count(number, what)} {reduced}encoded in {count(len(shards['starts']), 'shard')}"


def main(arguments: Sequence[str]) -> None:
    """Write `work/cache/<dataset>` and `work/distributions/cache/<dataset>`."""
    call = parse_call(SPEC, arguments)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.cache_distributions(call.key)) as spread,
        staged_output(paths.cache(call.key)) as out,
        open_engine(call.config.engine) as engine,
    ):
        shapes: Shapes = read_json(paths.shapes(call.key) / "shapes.json")
        weights = Path(call.config.weights)
        clean = paths.clean(call.key)
        found = build_cache(clean, out, call.config.tokenize, shapes, weights, engine)
        # Not in `out`, which trainings read: figures for people shall not train anything again.
        (spread / DISTRIBUTIONS).write_text(dump_json(found), encoding="utf-8")
        call.store(spread)
        call.store(out)
        facts: CacheFacts = read_json(out / "cache.json")
        run.facts({f"cache/{k}": v for k, v in facts.items()})
    darkest, brightest = facts.get("image_levels", [0, 255])
    if brightest - darkest < FEWEST_LEVELS:
        logger.warning(
            "tokenize_text %s: all images lie between %d and %d of 0 to 255, as masks and values "
            "of another range do: was their range meant?",
            *(call.key, darkest, brightest),
        )
    if loud := facts.get("audio", {}).get("beyond_range", 0):
        logger.warning(
            "tokenize_text %s: %s go far beyond -1..1, the range of samples, as floats that were "
            "never scaled do: divide them by their full scale",
            *(call.key, count(loud, "clip")),
        )
    for line in describe_constant(found):
        logger.warning("tokenize_text %s: %s", call.key, line)
    rows = {split: facts["rows"][split] for split in SPLITS if split in facts["rows"]}
    lost, cut = sum(facts["lost_labels"].values()), sum(facts["cut_answers"].values())
    call.report(
        count(sum(rows.values()), "row") + each(rows),
        f"{count(facts['texts'], 'distinct text')} of up to "
        f"{count(facts['longest_text_tokens'], 'token')}, vocabulary of {facts['vocab_size']:,}"
        if facts["texts"]
        else "",
        f"{count(facts['chat']['conversations'], 'distinct conversation')} of up to "
        f"{count(facts['chat']['longest_tokens'], 'token')}, "
        f"vocabulary of {facts['vocab_size']:,}"
        if "chat" in facts
        else "",
        _media(facts["images"], "distinct image", facts.get("image_shards"))
        if "images" in facts
        else "",
        _media(facts["audio"]["clips"], "distinct clip", facts["audio"].get("shards"))
        if "audio" in facts
        else "",
        count(facts["features"]["arrays"], "distinct array") if "features" in facts else "",
        f"{count(lost, 'row')} left out (longer than max_tokens)" if lost else "",
        f"{count(cut, 'answer')} cut to max_tokens" if cut else "",
        see=paths.cache(call.key) / "cache.json",
    )
