"""From encoded bytes to samples: the one decoding that training, evaluation and export share."""

import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from plumbline.data.audio_formats import FORMATS


def decode_mono(data: bytes, sample_rate: int) -> NDArray[np.float32]:
    """Decode to float32 [samples] in -1..1: channels averaged, resampled to `sample_rate` in Hz.

    Raises:
        OSError: the bytes are no audio that libsndfile can decode, or hold no sample.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, name = int(file.samplerate), str(file.format)
            if name not in FORMATS or rate <= 0:
                raise OSError(f"{name} at {rate} Hz: not one of {', '.join(FORMATS)}")
            channels: NDArray[np.float32] = file.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise OSError(" ".join(str(error).split())) from None
    if not len(channels):
        raise OSError("holds no sample")
    samples = channels.mean(axis=1, dtype=np.float32)
    if rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(samples, dtype=np.float32)
