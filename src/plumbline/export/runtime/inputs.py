"""What a request brings, as the arrays that the model takes: one reader per modality."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, Literal, TypedDict, TypeVar

import numpy as np

from plumbline.data.arrays import decode_features

from .contract import COUNT, SPECIAL_IDS, Fields, Limits, SpecialIds
from .files import Array, Files, Floats, InputError, TooLargeError
from .refusals import refused

FILTER = {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}
RESIZE: Fields = {
    "resample": FILTER,
    "keep_ratio": bool,
    "crop": float,
    "longest_edge": (range(1, 4097), None),  # a bound for what an image takes in between
}
INPUTS: dict[str, Fields] = {
    "image": {
        "height": COUNT,
        "width": COUNT,
        "resize": (FILTER, RESIZE),
        "mean": [float],
        "std": [float],
    },
    "audio": {
        "form": {"log_mel", "waveform"},
        "sample_rate": COUNT,
        "min_steps": range(COUNT.stop),
        "cut": (COUNT, None),
        "n_mels": COUNT,
        "window_ms": float,
        "hop_ms": float,
        "fft": COUNT,
        "edges": {"reflect", "zero"},
        "scale": {"whisper", "log"},
        "normalize": {"none", "clip"},
        "max_steps": (COUNT, None),
    },
    "features": {
        "channels": COUNT,
        "mean": ([float], None),
        "std": ([float], None),
        "cut": (COUNT, None),
        "max_steps": (COUNT, None),
    },
    "text": {"special_ids": SPECIAL_IDS, "max_tokens": COUNT},
}
"""Modality -> what its section `input` of a contract holds."""


class ResizeSection(TypedDict):
    """How an image gets the size."""

    resample: str
    keep_ratio: bool
    crop: float
    longest_edge: int | None


class ImageSection(TypedDict):
    """What `INPUTS` describes for images."""

    modality: Literal["image"]
    height: int
    width: int
    resize: str | ResizeSection
    """A filter alone: both sides are stretched by it."""
    mean: list[float]
    std: list[float]


class AudioSection(TypedDict):
    """What `INPUTS` describes for clips."""

    modality: Literal["audio"]
    form: str
    sample_rate: int
    min_steps: int
    cut: int | None
    n_mels: int
    window_ms: float
    hop_ms: float
    fft: int
    edges: str
    scale: str
    normalize: str
    max_steps: int | None


class FeaturesSection(TypedDict):
    """What `INPUTS` describes for features."""

    modality: Literal["features"]
    channels: int
    mean: list[float] | None
    std: list[float] | None
    cut: int | None
    max_steps: int | None


class TextSection(TypedDict):
    """What `INPUTS` describes for texts."""

    modality: Literal["text"]
    special_ids: SpecialIds
    max_tokens: int


InputSection = ImageSection | AudioSection | FeaturesSection | TextSection

Request = Mapping[str, object]
"""Values by field, files as bytes; of the fields' types once `Model` has checked it."""

Other = TypeVar("Other")


def file_in(request: Request, field: str) -> bytes:
    """A field of type file, which the request has."""
    value = request[field]
    assert isinstance(value, bytes)
    return value


def whole_in(request: Request, field: str, other: Other) -> int | Other:
    """A field of type integer; `other` where the request does not have it."""
    value = request.get(field, other)
    assert value is other or isinstance(value, int)
    return value


def number_in(request: Request, field: str, other: Other) -> float | Other:
    """A field of type number; `other` where the request does not have it."""
    value = request.get(field, other)
    assert value is other or isinstance(value, (int, float))
    return value


def text_in(request: Request, field: str, other: Other) -> str | Other:
    """A field of type text; `other` where the request does not have it."""
    value = request.get(field, other)
    assert value is other or isinstance(value, str)
    return value


def check_range(field: str, value: float | None, low: float, high: float) -> None:
    """Refuse a figure that is out of its range; None is in any.

    Raises:
        InputError: it is.
    """
    if value is not None and not low <= value <= high:
        raise InputError(f"{field}: {value:g} is outside {low:g} to {high:g}")


Arrays = list[Array]
"""The inputs of a graph for one sample, in order, each [1, ...]."""


Value = TypeVar("Value", bytes, str)


class Reader(ABC, Generic[Value]):
    """Base of the readers."""

    field: str
    """Name of the request's field."""
    type: str = "file"
    """file (bytes) or text."""
    exact = True
    """Whether any processor gives the same bits."""

    @abstractmethod
    def read(self, value: Value) -> Arrays:
        """Turn a checked value of the field into arrays.

        Raises:
            InputError: it is not what the field takes.
        """

    def cut_tokens(self, value: Value) -> int:
        """Tokens of a value that the model is not shown, because it has more than it takes."""
        return 0

    def read_from(self, request: Request) -> Arrays:
        """Read the field of a request; errors as `read`."""
        return self.read(self._value(request))

    def cut_from(self, request: Request) -> int:
        """The same as `cut_tokens`, of the field of a request."""
        return self.cut_tokens(self._value(request))

    @abstractmethod
    def _value(self, request: Request) -> Value:
        """The field of a request, which `Model` has compared with `type`."""


class FileReader(Reader[bytes]):
    """Base of the readers of encoded files."""

    def _value(self, request: Request) -> bytes:
        return file_in(request, self.field)


class ImageReader(FileReader):
    """pixel_values [1, 3, height, width]."""

    field = "image"

    def __init__(self, contract: ImageSection, limits: Limits) -> None:
        from .pixel_values import Preprocessor

        self.preprocessor = Preprocessor(contract, limits)

    def read(self, value: bytes) -> Arrays:
        """See `Reader`."""
        return [self.preprocessor.pixel_values(value)[None]]


class AudioReader(FileReader):
    """steps [1, steps, channels] and mask [1, steps]."""

    field = "audio"
    exact = False  # logarithms differ in the last bit

    def __init__(self, contract: AudioSection, limits: Limits) -> None:
        self._settings, self._limits = contract, limits

    def read(self, value: bytes) -> Arrays:
        """See `Reader`."""
        from .audio_features import audio_steps

        steps, heard = audio_steps(self.samples(value), self._settings)
        return _with_mask(steps, self._settings["max_steps"], "audio", heard)

    def samples(self, value: bytes) -> Floats:
        """Decode a clip to what its steps are made of, float32 [samples].

        Raises:
            InputError: as `read`.
        """
        from plumbline.data.audio import decode_mono

        with refused("audio"):
            return decode_mono(
                value,
                self._settings["sample_rate"],
                max_seconds=self._limits["max_audio_s"],
                max_bytes=self._limits["max_bytes"],
            )


class FeaturesReader(FileReader):
    """steps [1, steps, channels] and mask [1, steps], from the bytes of an .npy file."""

    field = "features"

    def __init__(self, contract: FeaturesSection, limits: Limits) -> None:
        self._settings, self._limits = contract, limits
        self._mean: Floats | None = None
        if contract["mean"] is not None:
            self._mean = np.array(contract["mean"], np.float32)
            # A factor, as in training: a division would round otherwise.
            self._scale = 1 / np.maximum(np.array(contract["std"], np.float32), 1e-6)

    def read(self, value: bytes) -> Arrays:
        """See `Reader`."""
        with refused("features"):
            values = decode_features(value, max_bytes=self._limits["max_bytes"])
        if values.shape[1] != (channels := self._settings["channels"]):
            raise InputError(
                f"features: shape {list(values.shape)}, expected is [steps, {channels}]"
            )
        values = values[: self._settings["cut"]]
        if self._mean is not None:
            values = ((values - self._mean) * self._scale).astype(np.float32)
        return _with_mask(values, self._settings["max_steps"], "features")


def _with_mask(steps: Floats, most: int | None, name: str, counted: int | None = None) -> Arrays:
    if most is not None and len(steps) > most:
        raise TooLargeError(f"{name}: {len(steps)} steps, the model takes {most}")
    # A single sample has no padding: every step counts, but for silence that was put behind it.
    mask = np.arange(len(steps))[None] < (len(steps) if counted is None else counted)
    return [np.ascontiguousarray(steps[None], np.float32), mask]


class TextInputReader(Reader[str]):
    """input_ids and attention_mask [1, seq]: the text, cut, between bos and eos."""

    field, type = "text", "text"

    def __init__(self, contract: TextSection, limits: Limits, files: Files) -> None:
        from .text import TextReader

        self.text = TextReader(files, limits["max_text_chars"])
        self._settings = contract

    def read(self, value: str) -> Arrays:
        """See `Reader`."""
        ids, special = self._encode(value), self._settings["special_ids"]
        # Cut before it is framed, so that eos is never lost.
        framed = [special["bos"], *ids[: self._settings["max_tokens"]], special["eos"]]
        return ids_and_mask(framed)

    def _value(self, request: Request) -> str:
        value = request[self.field]
        assert isinstance(value, str)
        return value

    def _encode(self, value: str) -> list[int]:
        return self.text.encode(self.text.check("text", value, empty=True))

    def cut_tokens(self, value: str) -> int:
        """See `Reader`: of a text that is too long, its end."""
        return max(0, len(self._encode(value)) - self._settings["max_tokens"])


def ids_and_mask(ids: Sequence[int]) -> Arrays:
    """Token ids of one sample as input_ids and attention_mask, both [1, seq]."""
    row = np.array([ids], np.int64)
    return [row, np.ones_like(row)]


AnyReader = Reader[bytes] | Reader[str]


def open_reader(contract: InputSection, limits: Limits, files: Files) -> AnyReader:
    """The reader of the section `input` of a contract."""
    if contract["modality"] == "text":
        return TextInputReader(contract, limits, files)
    if contract["modality"] == "image":
        return ImageReader(contract, limits)
    if contract["modality"] == "audio":
        return AudioReader(contract, limits)
    return FeaturesReader(contract, limits)


def fingerprint(arrays: Arrays, *, exact: bool) -> dict[str, object]:
    """What identifies the inputs of a sample: a digest, or figures to compare with a tolerance.

    The digest is SHA-256 over the little-endian bytes of all arrays in row-major order.
    """
    if exact:
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
        return {"sha256": digest.hexdigest()}
    first = arrays[0].astype(np.float64)
    # Not the bits, which differ between processors: some values stand for all.
    places = np.linspace(0, first.size - 1, 32).astype(int)
    values = [float(f"{value:.7g}") for value in first.ravel()[places]]
    mean, std = (float(f"{value:.7g}") for value in (first.mean(), first.std()))
    return {"shape": list(first.shape), "mean": mean, "std": std, "values": values}
