"""Settings of the loader; no torch here."""

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from plumbline.config import Config

MOST_WORKERS = 8
"""Of those that are not asked for by number: with as many a GPU has not been seen to wait."""


class LoaderConfig(Config):
    """How samples become batches."""

    batch_size: int = Field(64, ge=1)
    """Samples in a batch; the most that there may be where max_tokens is set."""
    drop_last: bool = False
    """Leave out a short last batch in training, as contrastive losses want: two pairs teach
    nothing. A split smaller than one batch is kept."""
    bucket_by_length: bool = False
    """Put samples of similar length together, so that there is less padding."""
    max_tokens: int | None = Field(None, ge=1)
    """Limit on a batch's longest length times its samples, padding included."""
    shuffle_shards: int = Field(16, ge=1)
    """Shards of encoded media (`tokenize.decoded_gb`) that samples are shuffled within: each epoch
    draws the order of the shards, and reads so many of them at a time. Decoded ones lie in none."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Loader processes; the batches are the same for any number. auto: none beside a CPU that
    trains, up to 8 beside a GPU. They live as long as the training."""
    timeout_s: float = Field(600.0, gt=0.0)
    """Seconds for which the training waits while no loader process reads a sample; then it ends. A
    slow disk is no fault as long as samples come."""
    cache_mb: int = Field(0, ge=0)
    """Memory for decoded samples, in MiB for each loader process; 0: none are kept."""

    def workers_for(self, device: str, processes: int = 1) -> int:
        """Loader processes of a training.

        Args:
            device: type of what the training computes on.
            processes: of the training, each of which has loader processes of its own.
        """
        if self.workers != "auto":
            return self.workers
        # Those that this process may use: taskset and containers leave it fewer than there are.
        cores = len(os.sched_getaffinity(0))
        return 0 if device == "cpu" else min(MOST_WORKERS, max(1, cores // processes))

    @model_validator(mode="after")
    def _short_batches(self) -> "LoaderConfig":
        if self.drop_last and self.max_tokens is not None:
            raise ValueError(
                f"drop_last and max_tokens {self.max_tokens} contradict: with a limit on tokens "
                "batches have no one size"
            )
        return self
