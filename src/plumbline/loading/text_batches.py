"""Token ids of texts as a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.batch import Batch
from plumbline.loading.loader import pad_rows
from plumbline.loading.masks import padding_mask
from plumbline.tokenization.framing import frame_ids
from plumbline.tokenization.tokenizer import SpecialIds


def collate_texts(
    texts: Sequence[NDArray[np.generic]], special_ids: SpecialIds, max_tokens: int
) -> Batch:
    """Frame and pad token ids: input_ids and attention_mask [batch, seq], int64."""
    # [batch][tokens + 2], cut to max_tokens before bos and eos are put around.
    framed = [frame_ids(ids, special_ids.bos, special_ids.eos, max_tokens) for ids in texts]
    input_ids = pad_rows(framed, special_ids.pad)
    lengths = torch.tensor([len(ids) for ids in framed])
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": padding_mask(lengths, input_ids.shape[1]).long(),
    }
