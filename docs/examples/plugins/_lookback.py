"""A decoder of one's own: what stands before each token, by convolutions."""

from torch import Tensor, nn
from torch.nn import functional


class Lookback(nn.Module):
    """Gated convolutions over the past, each of which sees twice as far as the one before."""

    def __init__(self, width: int, layers: int = 4) -> None:
        """Build with random weights; `width` is that of the tokens' vectors."""
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(width, 2 * width, kernel_size=2, dilation=2**layer) for layer in range(layers)
        )

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        """Map [batch, seq, width] to the same; nothing comes from behind a place."""
        hidden = inputs_embeds.transpose(1, 2)  # [batch, width, seq]
        for layer, conv in enumerate(self.layers):
            past = functional.pad(hidden, (2**layer, 0))
            hidden = hidden + functional.glu(conv(past), dim=1)
        return hidden.transpose(1, 2)
