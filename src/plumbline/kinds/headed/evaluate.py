"""The outputs of a headed model on a whole split."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plumbline.loading.loader import Loader
from plumbline.models.device import to_device
from plumbline.tracking.progress import tracked


@torch.inference_mode()
def predict(
    model: nn.Module, loader: Loader, device: torch.device
) -> dict[str, NDArray[np.float32]]:
    """Logits [samples, classes] of every head, in the order of an unshuffled loader."""
    model.eval()
    found: dict[str, list[NDArray[np.float32]]] = {}
    for batch in tracked(loader.batches(epoch=0), "predicting", loader.count(0), "batches"):
        for part, logits in model(**to_device(batch["inputs"], device)).items():
            # numpy has no bfloat16.
            found.setdefault(part, []).append(logits.float().cpu().numpy())
    return {part: np.concatenate(blocks) for part, blocks in found.items()}
