"""Settings of a causal decoder. No torch here."""

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from plumbline.config import Config
from plumbline.registry import PluginPlace


class DecoderConfig(Config):
    """A causal decoder: Qwen3-type from these sizes, a checkpoint, or a module of one's own."""

    pretrained: str | None = None
    """An entry of `weights`; then the sizes below are not used."""
    module: PluginPlace | None = None
    """A user's own torch module in `plugins/`; then of the sizes below `width` and `max_positions`
    alone are used."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the module's class, beside `width`, `vocab_size` and `max_positions`, which it
    is given if it takes them."""
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
        if self.module:
            if self.pretrained:
                raise ValueError("pretrained and module both say where the decoder comes from")
            return self
        if self.options:
            raise ValueError("options are of a module, and none is named")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what is of modules alone: other models stay the bytes that they were."""
        plain: dict[str, object] = handler(self)
        own = () if self.module else ("module", "options")
        return {name: value for name, value in plain.items() if name not in own}
