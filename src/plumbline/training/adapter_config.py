"""Settings of adapters: small matrices that train beside the frozen layers of a part."""

from typing import Literal

from pydantic import Field

from plumbline.config import Config


class AdapterConfig(Config):
    """A low-rank adapter of one part of a model, whose own weights stay as they are.

    Source: Hu et al. 2021, arXiv:2106.09685.
    """

    method: Literal["lora", "dora"] = "lora"
    """`dora` learns the length of each row of a weight beside its direction (arXiv:2402.09353)."""
    rank: int = Field(16, ge=1)
    """Columns of the two small matrices that are learned beside each weight."""
    alpha: float = Field(32.0, gt=0.0)
    """What is learned is scaled by alpha / rank."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) in place of it (arXiv:2312.03732)."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that an input of the adapter is left out in training."""
    targets: list[str] = Field(default_factory=list)
    """Linear layers by the end of their names, such as q_proj, or by a regular expression for all
    of it; empty: all but the last map to logits."""
    new_tokens: bool = False
    """Train the rows of embedding and last map that are of tokens which the checkpoint's own
    tokenizer does not have."""
    quantize: Literal["nf4", "fp4"] | None = None
    """Hold the linear layers of the part in 4 bits (arXiv:2305.14314); None: as they are."""
    double_quantize: bool = True
    """Quantise the scales of the 4-bit blocks as well."""
