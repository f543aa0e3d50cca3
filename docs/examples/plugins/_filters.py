"""A network of one's own, used as it is: no registration, no settings class."""

from torch import Tensor, nn


class Filters(nn.Module):
    """Learned filters over time, and how strongly each of them answers."""

    def __init__(self, channels: int, width: int = 16) -> None:
        """Build with random weights; `channels` is what the dataset's steps have."""
        super().__init__()
        self.filters = nn.Conv1d(channels, width, kernel_size=9, padding=4)
        self.map = nn.Linear(width, width)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, steps, channels] to [batch, width]; padding is where `mask` is false."""
        counted = mask.unsqueeze(1)  # [batch, 1, steps]
        answers = self.filters(steps.transpose(1, 2)).square() * counted  # [batch, width, steps]
        strength: Tensor = self.map((answers.sum(dim=2) / counted.sum(dim=2)).log1p())
        return strength
