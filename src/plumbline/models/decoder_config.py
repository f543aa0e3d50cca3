"""Settings of a causal decoder. No torch here."""

from pydantic import Field, model_validator

from plumbline.config import Config


class DecoderConfig(Config):
    """A Qwen3-type causal decoder: from these sizes, or from a checkpoint of that kind."""

    pretrained: str | None = None
    """An entry of `weights`; then the sizes below are not used."""
    width: int = Field(192, ge=8)
    layers: int = Field(3, ge=1)
    heads: int = Field(6, ge=1)
    kv_heads: int = Field(6, ge=1)
    mlp_width: int = Field(512, ge=8)
    max_positions: int = Field(512, ge=16)

    @model_validator(mode="after")
    def _fits(self) -> "DecoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self
