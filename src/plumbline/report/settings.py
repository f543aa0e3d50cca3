"""How much the page shows, and what only the user can say of a model. No library of plots here."""

from pydantic import Field

from plumbline.config import Config

MOST_SAMPLES = 32


class CardSettings(Config):
    """What a model card says that no stage can know."""

    intended_use: str = ""
    """What the model is for, and for whom."""
    out_of_scope: str = ""
    """What it must not be used for."""
    limits: str = ""
    """Beside those that the figures show."""
    licence: str = ""
    """Of the weights: an SPDX identifier or a name."""
    contact: str = ""
    """Where to ask about the model."""


class ReportSettings(Config):
    """Section `report`: the page grows with these, and with nothing that a dataset holds."""

    samples: int = Field(8, ge=1, le=MOST_SAMPLES)
    """Predictions of each sort, retrieval queries and rejected rows of each reason."""
    image_side: int = Field(160, ge=16, le=640)
    """Pixels of the longer side of a picture; larger images are reduced to it."""
    audio_s: float = Field(3.0, gt=0, le=30)
    """Seconds of a clip that can be played; of a longer one the beginning."""
    cards: dict[str, CardSettings] = {}
    """Task -> what its model card says."""
