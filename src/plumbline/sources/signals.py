"""Source `signals`: two made-up sets of physiological recordings, as the parts of one dataset.

Part `pain` is labelled by how much it hurt, part `stimulus` by what was applied; both know `none`.
Recording i of a part is a pure function of (seed, part, i), so any shard can be made alone and a
longer dataset begins with the shorter one.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from pydantic import Field, field_validator
from typing_extensions import override

from plumbline.data.arrays import encode_array
from plumbline.sources.base import Piece, Source, cut_numbers
from plumbline.sources.rows import Row, make_batches

CHANNELS = ("skin_conductance", "pulse", "muscle", "skin_temperature", "breath")
"""The columns of a recording, as if sampled ten times a second."""


class Response(NamedTuple):
    """How a body answers, on average; a subject and a recording scale and shift all of it."""

    share: float
    """How often the label occurs in its part."""
    conductance: float = 0.0
    """Height of the skin's answer, in noise-free units of the channel."""
    latency: float = 0.0
    """Steps from the onset to the skin's answer."""
    pulse_early: float = 0.0
    """Relative change of the pulse's rate over the 14 steps from the onset on."""
    pulse_late: float = 0.0
    """The same after these steps."""
    muscle: float = 0.0
    """How many times stronger the muscle's noise is during a burst."""
    burst: float = 0.0
    """Steps that the burst lasts."""
    warming: float = 0.0
    """Change of the skin's temperature from onset to end, in noise-free units."""


PARTS: Mapping[str, Mapping[str, Response]] = MappingProxyType(
    {
        "pain": {
            "none": Response(0.45),
            "mild": Response(0.3, 0.9, 14, 0.12, 0.0, 1.3, 9),
            "moderate": Response(0.205, 1.65, 10, 0.24, 0.08, 2.1, 14),
            "severe": Response(0.045, 2.2, 8, 0.3, 0.27, 2.7, 21),
        },
        "stimulus": {
            "none": Response(0.4),
            "cold": Response(0.25, 1.2, 9, -0.15, -0.2, 1.0, 9, -0.4),
            "heat": Response(0.305, 1.2, 13, 0.13, 0.24, 1.0, 9, 0.4),
            "pressure": Response(0.045, 1.2, 11, 0.19, -0.09, 1.6, 16, 0.2),
        },
    }
)
"""Part -> label -> answer. The rarest label of each lies nearest to another one."""

COLUMNS = ("sample_id", "group", "part", "features", "label")
SPREAD = 0.14
"""Standard deviation of what a recording multiplies each figure of its answer by."""

RECORDINGS_PER_PIECE = 1024
_EARLY_STEPS = 14
_SUBJECT_STREAM = 2**60
"""Where the streams of the subjects begin, beyond those of the recordings.

Keys stay below 2**63, above which numpy would round them to floats.
"""


class SignalsSource(Source):
    """The embedded recordings, chosen by `source: signals`."""

    source: Literal["signals"]
    recordings: int = Field(4000, ge=20)
    """Rows of each part."""
    subjects: int = Field(100, ge=2)
    """People in each part; the recordings of one never part between splits."""
    steps: list[int] = Field([40, 120], min_length=2, max_length=2)
    """Shortest and longest recording, in time steps."""
    noise: float = Field(1.0, gt=0.0, le=10.0)
    """How much of everything that has nothing to do with the label there is."""
    faulty_share: float = Field(0.01, ge=0.0, le=0.5)
    """Share of recordings with lost values (NaN), so that validation has something to find."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Another one gives other recordings; more `recordings` begin with the same ones."""

    @field_validator("steps")
    @classmethod
    def _in_order(cls, steps: list[int]) -> list[int]:
        if not 8 <= steps[0] <= steps[1] <= 10_000:
            raise ValueError(f"{steps}: from a shortest of at least 8 to a longest of 10000")
        return steps

    @property
    def given_splits(self) -> list[str]:
        """None: the recordings are split by a hash of their subjects."""
        return []

    @property
    @override
    def rows_bring_splits(self) -> bool:
        return False

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield both parts; `path` is not read: the recordings are made, not found."""
        return make_batches((self._row(n) for n in range(self._rows)), COLUMNS)

    @override
    def pieces(self, path: Path) -> Iterator[Piece] | None:
        return cut_numbers(self._rows, RECORDINGS_PER_PIECE)

    @override
    def read_piece(self, path: Path, piece: Piece) -> Iterator[pa.RecordBatch]:
        assert isinstance(piece, range), "as it was cut"
        yield from make_batches(map(self._row, piece), COLUMNS)

    @property
    def _rows(self) -> int:
        return len(PARTS) * self.recordings

    def _row(self, number: int) -> Row:
        """Row `number` of both parts, one after the other."""
        part, index = divmod(number, self.recordings)
        return recording(self, list(PARTS)[part], index)


def recording(config: SignalsSource, part: str, index: int) -> Row:
    """Make row `index` of a part."""
    random = _stream(config, part, index)
    subject = int(random.integers(config.subjects))
    shares = np.array([response.share for response in PARTS[part].values()])
    label = list(PARTS[part])[int(random.choice(len(shares), p=shares / shares.sum()))]
    person = _stream(config, part, _SUBJECT_STREAM + subject)
    values = draw_signals(PARTS[part][label], config, random, person)
    if random.random() < config.faulty_share:
        start = int(random.integers(len(values)))
        values[start : start + 5, random.integers(values.shape[1])] = np.nan
    return {
        "sample_id": f"{part}-{index:07d}".encode(),
        "group": f"{part}-subject-{subject:04d}".encode(),
        "part": part.encode(),
        "features": encode_array(values),
        "label": label.encode(),
    }


def _stream(config: SignalsSource, part: str, number: int) -> Generator:
    return Generator(Philox(key=[config.seed, 2 * number + list(PARTS).index(part)]))


def draw_signals(
    response: Response, config: SignalsSource, random: Generator, person: Generator
) -> NDArray[np.float32]:
    """Draw one recording: float32 [time, channels].

    Args:
        response: the average answer.
        config: gives lengths and noise.
        random: the stream of the recording.
        person: the stream of its subject, at its beginning.
    """
    time = np.arange(int(random.integers(config.steps[0], config.steps[1] + 1)), dtype=np.float64)
    onset = len(time) * random.uniform(0.1, 0.3)
    answer = response._replace(
        **{
            name: getattr(response, name) * random.normal(1.0, SPREAD * config.noise)
            for name in Response._fields[1:]
        }
    )
    gain, rate, depth = (
        person.uniform(0.85, 1.18),
        person.uniform(0.115, 0.13),
        person.uniform(0.7, 1.3),
    )
    channels = [
        gain * _conductance(time, onset, answer, random, config.noise) + person.normal(0.0, 0.5),
        depth * _pulse(time, onset, answer, random, config.noise, rate),
        gain * _muscle(time, onset, answer, random, config.noise),
        _temperature(time, onset, answer, random, config.noise) + person.normal(0.0, 0.5),
        _breath(time, random, config.noise, person.uniform(0.025, 0.035)),
    ]
    # Rounded, so that the last bit of a sine, which processors disagree on, is not in the data.
    return np.round(np.stack(channels, axis=1), 4).astype(np.float32)


def _skin_answer(time: NDArray[np.float64], start: float) -> NDArray[np.float64]:
    """A quick rise and a slow fall, of height one: [time]."""
    since = np.maximum(time - start, 0.0)
    return 1.73 * (np.exp(-since / 18) - np.exp(-since / 5))


def _conductance(
    time: NDArray[np.float64], onset: float, answer: Response, random: Generator, noise: float
) -> NDArray[np.float64]:
    wave = answer.conductance * _skin_answer(time, onset + answer.latency)
    # The skin also answers to nothing at all, at any time.
    for _ in range(int(random.poisson(0.7 * noise))):
        wave += random.uniform(0.2, 1.0) * _skin_answer(time, random.uniform(-20, len(time)))
    drift = random.normal(0.0, 0.5 * noise) * time / len(time)
    return wave + drift + random.normal(0.0, 0.08 * noise, len(time))


def _pulse(
    time: NDArray[np.float64],
    onset: float,
    answer: Response,
    random: Generator,
    noise: float,
    rate: float,
) -> NDArray[np.float64]:
    early = (time >= onset) & (time < onset + _EARLY_STEPS)
    late = time >= onset + _EARLY_STEPS
    change = 1 + answer.pulse_early * early + answer.pulse_late * late
    wander = np.cumsum(random.normal(0.0, 0.015 * noise, len(time)))
    phase = 2 * np.pi * (random.random() + np.cumsum(rate * (change + wander)))
    beat = np.sin(phase) + 0.3 * np.sin(2 * phase + 0.8)
    return beat + random.normal(0.0, 0.2 * noise, len(time))


def _muscle(
    time: NDArray[np.float64], onset: float, answer: Response, random: Generator, noise: float
) -> NDArray[np.float64]:
    start = onset + random.uniform(0, 5)
    strength = 1 + answer.muscle * ((time >= start) & (time < start + answer.burst))
    # People also move for no reason.
    for _ in range(int(random.poisson(0.6 * noise))):
        start = random.uniform(0, len(time))
        strength += random.uniform(0.5, 2.0) * ((time >= start) & (time < start + 7))
    return 0.5 * strength * random.normal(0.0, 1.0, len(time))


def _temperature(
    time: NDArray[np.float64], onset: float, answer: Response, random: Generator, noise: float
) -> NDArray[np.float64]:
    reached = np.clip((time - onset) / (len(time) - onset), 0.0, 1.0)
    drift = random.normal(0.0, 0.6 * noise) * time / len(time)
    return answer.warming * reached + drift + random.normal(0.0, 0.1 * noise, len(time))


def _breath(
    time: NDArray[np.float64], random: Generator, noise: float, rate: float
) -> NDArray[np.float64]:
    wander = np.cumsum(random.normal(0.0, 0.1 * noise, len(time)))
    phase = 2 * np.pi * (random.random() + np.cumsum(rate * (1 + 0.3 * np.tanh(wander))))
    return np.sin(phase) + random.normal(0.0, 0.1 * noise, len(time))
