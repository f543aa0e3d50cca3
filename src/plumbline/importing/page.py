"""The first rows of an import as one HTML file that needs no other: pictures and sounds as well."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from plumbline.data.audio_headers import sniff_audio
from plumbline.data.images import decode_image
from plumbline.data.undecodable import TooCostlyError, UndecodableError
from plumbline.files import atomic_write
from plumbline.importing.importer import Import
from plumbline.importing.shown import shown_cell
from plumbline.text import finalize

TEMPLATES = Path(__file__).parent / "templates"
MAX_SIDE = 160
"""Pixels of the longer side of a picture on the page."""
MAX_AUDIO_BYTES = 400_000
"""A longer sound is named by its size."""
MIMES = {"WAV": "wav", "AIFF": "aiff", "FLAC": "flac", "OGG": "ogg", "MP3": "mpeg"}


@dataclass(frozen=True)
class Cell:
    """A cell as the page shows it."""

    text: str
    image: str = ""
    """A data URI."""
    audio: str = ""
    """A data URI."""


def write_page(found: Import, file: Path) -> None:
    """Write the page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=False,
    )
    first = found.trial.first
    names = [name for name in first[0] if any(row[name] is not None for row in first)]
    rows = [[make_cell(name, row[name]) for name in names] for row in first]
    page = environment.get_template("import.html.j2").render(found=found, names=names, rows=rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, page)


def make_cell(name: str, value: object) -> Cell:
    """A cell of a column; a medium that cannot be read is named by its size."""
    text = shown_cell(value)
    if name == "image" and isinstance(value, bytes):
        return Cell(text, image=_picture(value))
    if name == "audio" and isinstance(value, bytes) and len(value) <= MAX_AUDIO_BYTES:
        container = sniff_audio(value)
        return Cell(text, audio=_uri(f"audio/{MIMES[container]}", value) if container else "")
    return Cell(text)


def _picture(data: bytes) -> str:
    try:
        image = decode_image(data)
    except (UndecodableError, TooCostlyError):
        return ""
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def _uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
