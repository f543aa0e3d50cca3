"""How token ids become a sequence for a text encoder."""

import numpy as np
from numpy.typing import NDArray


def frame_ids(ids: NDArray[np.generic], bos: int, eos: int, limit: int) -> NDArray[np.int64]:
    """Cut ids [tokens] to `limit` and put bos and eos around them, also around the empty text."""
    return np.concatenate([[bos], ids[:limit], [eos]]).astype(np.int64)
