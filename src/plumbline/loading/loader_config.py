"""Settings of the loader; no torch here."""

from pydantic import Field

from plumbline.config import Config


class LoaderConfig(Config):
    """How samples become batches."""

    batch_size: int = Field(64, ge=1)
    workers: int = Field(0, ge=0)
    """Loader processes; the batches are the same for any number."""
