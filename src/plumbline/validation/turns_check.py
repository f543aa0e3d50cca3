"""Is a conversation usable, and what does its clean form look like? Works on bytes."""

from plumbline.data.turns import (
    BadTurns,
    Turn,
    count_images,
    dump_turns,
    find_disorder,
    parse_turns,
)
from plumbline.validation.faults import Fault
from plumbline.validation.text_check import CleanText, clean_text


def clean_turns(raw: bytes, max_chars: int, *, images: bool = False) -> CleanText | Fault:
    """Judge the cell of a conversation; what its turns say is cleaned as texts are.

    Args:
        raw: the cell, supposed to be what `plumbline.data.turns` writes.
        max_chars: a longer cell, in characters, is a fault.
        images: whether rows bring the images that turns show.
    """
    try:
        text = raw.decode("utf-8")
        turns = parse_turns(text)
    except UnicodeDecodeError as error:
        return Fault("bad_encoding", f"not UTF-8 at byte {error.start}: {error.reason}")
    except BadTurns as error:
        return Fault("bad_turns", str(error))
    if len(text) > max_chars:
        return Fault("text_too_long", f"{len(text)} characters, allowed are {max_chars}")
    if disorder := find_disorder(turns):
        return Fault("turn_order", disorder)
    if not images and (places := count_images(turns)):
        detail = f"{places} places of images, but no view of validate.views has images"
        return Fault("image_places", detail)
    cleaned: list[Turn] = []
    control = bom = nfc = False
    for number, turn in enumerate(turns, 1):
        # Half of a surrogate pair, which JSON can write, becomes bytes that are no UTF-8.
        found = clean_text(turn["content"].encode("utf-8", "surrogatepass"), max_chars)
        if isinstance(found, Fault):
            return found._replace(detail=f"turn {number}: {found.detail}")
        # Cleaning leaves marks alone, so which of them are images stays the same.
        cleaned.append({**turn, "content": found.text})
        control, bom, nfc = control or found.control, bom or found.bom, nfc or found.nfc
    return CleanText(dump_turns(cleaned), control=control, bom=bom, nfc=nfc)
