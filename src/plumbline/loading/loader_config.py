"""Settings of the loader; no torch here."""

from pydantic import Field

from plumbline.config import Config


class LoaderConfig(Config):
    """How samples become batches."""

    batch_size: int = Field(64, ge=1)
    drop_last: bool = False
    """Leave out a short last batch in training, as contrastive losses want: two pairs teach
    nothing. A split smaller than one batch is kept."""
    workers: int = Field(0, ge=0)
    """Loader processes; the batches are the same for any number."""
