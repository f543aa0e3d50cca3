"""Stage `list_objects`: what lies below a URL in an object store, object by object.

It looks when its settings change and when it is told to (`plumbline repro -f list_objects@NAME`),
not at every run: what is read is what was there when somebody looked.
"""

from collections.abc import Sequence
from pathlib import Path

from plumbline import paths
from plumbline.errors import CheckpointError
from plumbline.files import STATE_DIR
from plumbline.objects.listing import Listing, differences, list_objects, read_listing
from plumbline.objects.settings import ObjectsEntry
from plumbline.stage import StageSpec, count, parse_call
from plumbline.tracking.record import record_run

SPEC = StageSpec(
    name="list_objects",
    schema=ObjectsEntry,
    group="objects",
    sections=lambda key: {"objects": f"objects.{key}"},
)


def main(arguments: Sequence[str]) -> None:
    """Write `work/objects/<name>.jsonl`."""
    call = parse_call(SPEC, arguments)
    with record_run(stage=SPEC.name, key=call.key, config=call.plain) as run:
        listing = list_objects(call.config.objects)
        seen = STATE_DIR / "listings" / f"{call.key}.jsonl"
        changes = _since(seen, listing)
        for file in (paths.objects(call.key), seen):
            file.parent.mkdir(parents=True, exist_ok=True)
            listing.write(file)
        run.facts({"objects": len(listing.objects), "bytes": listing.bytes, **changes})
    said = [f"{number:,} {what} since the last look" for what, number in changes.items() if number]
    size = f"{listing.bytes / 1e6:,.1f} MB"
    call.report(count(len(listing.objects), "object"), size, *said, see=paths.objects(call.key))


def _since(seen: Path, listing: Listing) -> dict[str, int]:
    """What has changed since this machine looked the last time; nothing at the first look."""
    try:
        return dict(differences(read_listing(seen), listing))
    except CheckpointError:
        return {}
