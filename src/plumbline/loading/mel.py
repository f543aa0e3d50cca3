"""The filter bank of mel spectrograms."""

import numpy as np
from numpy.typing import NDArray


def mel_filters(n_mels: int, fft: int, sample_rate: int) -> NDArray[np.float64]:
    """Triangles of equal area, spaced evenly on Slaney's mel scale from 0 to half the rate.

    Returns:
        [fft // 2 + 1, n_mels] float64.

    Source: Slaney 1998, Auditory Toolbox; linear to 1000 Hz, logarithmic above.
    """
    step = np.log(6.4) / 27  # per mel, above the 15 mels of 1000 Hz
    top = sample_rate / 2
    top_mel = top * 3 / 200 if top < 1000 else 15 + np.log(top / 1000) / step
    mels = np.linspace(0, top_mel, n_mels + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.arange(fft // 2 + 1) * (sample_rate / fft)
    rising = (bins[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins[:, None]) / (corners[2:] - corners[1:-1])
    height = 2 / (corners[2:] - corners[:-2])
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * height
    return filters
