"""What of an encoded image reaches the decoder."""

from typing import Literal, NamedTuple


class Parts(NamedTuple):
    """The bytes that hold pixels, what the container says of them, and what they cost."""

    format: str
    """In Pillow's words."""
    data: bytes
    """The container with what decoding needs, and nothing else."""
    width: int
    """Pixels, before any rotation that EXIF asks for."""
    height: int
    """Pixels, before any rotation that EXIF asks for."""
    memory: int
    """Bytes that decoding takes at its peak, beside `data`."""
    work_ns: int
    """Nanoseconds of a CPU core that decoding takes at most."""
    bits: int = 8
    """Of a sample."""
    max_value: int = 0
    """White, where the file says so; 0 where it does not."""
    exif: bytes = b""
    """A TIFF structure with the orientation, or nothing."""
    xmp: bytes = b""
    """XML that may hold the orientation, or nothing."""
    codec_mode: Literal["RGB", "L"] | None = None
    """What the codec makes of `data` itself; None where more of it must be understood first."""
    why: str = ""
    """What makes it costly, for a message."""
