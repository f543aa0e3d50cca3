"""Stage `tokenize_text`: tokenizer, token ids and decoded images, each distinct value once."""

from collections.abc import Sequence

from plumbline import paths
from plumbline.config import Config
from plumbline.files import read_json, staged_output
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tokenization.cache import TokenizeConfig, build_cache
from plumbline.tracking.record import record_run


class TokenizeTextConfig(Config):
    """Tokenizer and size of the cached images."""

    tokenize: TokenizeConfig


SPEC = StageSpec(
    name="tokenize_text",
    schema=TokenizeTextConfig,
    group="datasets",
    sections=lambda key: {"tokenize": f"datasets.{key}.tokenize"},
)


def main(arguments: Sequence[str]) -> None:
    """Write `work/cache/<dataset>`."""
    call = parse_call(SPEC, arguments)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.cache(call.key)) as out,
    ):
        shapes = read_json(paths.shapes(call.key) / "shapes.json")
        build_cache(paths.clean(call.key), out, call.config.tokenize, shapes)
        run.facts({f"cache/{k}": v for k, v in read_json(out / "cache.json").items()})


if __name__ == "__main__":
    run_stage(main)
