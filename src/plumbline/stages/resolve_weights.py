"""Stage `resolve_weights`: which files a checkpoint of others has.

What it writes says nothing of where they lie: a training depends on what it starts from, not on the
name of a folder.
"""

from collections.abc import Sequence

from plumbline import paths
from plumbline.errors import ConfigError
from plumbline.files import atomic_write, dump_json
from plumbline.stage import StageSpec, count, parse_call
from plumbline.tracking.record import record_run
from plumbline.weights.checkpoint import locate
from plumbline.weights.files import describe_files, of_tokenizer
from plumbline.weights.settings import WeightsEntry

SPEC = StageSpec(
    name="resolve_weights",
    schema=WeightsEntry,
    group="weights",
    sections=lambda key: {"checkpoint": f"weights.{key}"},
)


def main(arguments: Sequence[str]) -> None:
    """Write `work/weights/<set>/<name>.json`, and what of it a tokenizer is read from."""
    call = parse_call(SPEC, arguments)
    place = f"weights.{call.key}"
    config = call.config.checkpoint
    out = paths.weights(config.set) / f"{call.key}.json"
    tokenizer = paths.tokenizers(config.set) / f"{call.key}.json"
    with record_run(stage=SPEC.name, key=call.key, config=call.plain) as run:
        try:
            files = describe_files(locate(config))
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        for file, chosen in ((out, files), (tokenizer, of_tokenizer(files))):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, dump_json({"files": chosen}))
        size = sum(facts["bytes"] for facts in files.values())
        run.facts({"files": len(files), "bytes": size})
    call.report(count(len(files), "file"), f"{size / 1e6:,.1f} MB", see=out)
