"""Settings of a causal decoder. No torch here."""

from pydantic import Field, model_validator

from plumbline.config import Config


class DecoderConfig(Config):
    """A Qwen3-type causal decoder: from these sizes, or from a checkpoint of that kind."""

    pretrained: str | None = None
    """An entry of `weights`; then the sizes below are not used."""
    width: int = Field(192, ge=8)
    """Of the embeddings and of every layer."""
    layers: int = Field(3, ge=1)
    """Transformer layers."""
    heads: int = Field(6, ge=1)
    """Attention heads of a layer; width must be a multiple of it."""
    kv_heads: int = Field(6, ge=1)
    """Heads of keys and values, which several heads of queries share; heads must be a multiple of
    it."""
    mlp_width: int = Field(512, ge=8)
    """Hidden width of the feed-forward half of a layer."""
    max_positions: int = Field(512, ge=16)
    """Longest input, in tokens, those of images among them."""

    @model_validator(mode="after")
    def _fits(self) -> "DecoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self
