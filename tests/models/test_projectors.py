"""From image tokens to a decoder's: which of them meet, and graphs for batches of any size."""

import warnings

import pytest
import torch

from plumbline.models.projector_config import MlpConfig, PixelShuffleConfig, ProjectorConfig
from plumbline.models.projectors import Joint, build_projector

JOINT = Joint(tokens=16, token_width=3, decoder_width=5)
BOTH = [MlpConfig(name="mlp", width=8), PixelShuffleConfig(name="pixel_shuffle", scale=2)]


@pytest.mark.parametrize("config", BOTH, ids=lambda config: config.name)
def test_a_graph_that_is_traced_takes_batches_of_any_size(config: ProjectorConfig) -> None:
    projector = build_projector(config, JOINT).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, on shapes
        graph = torch.jit.trace(projector, torch.randn(2, 16, 3))
    for batch in (1, 2, 3):
        features = torch.randn(batch, 16, 3)
        torch.testing.assert_close(graph(features), projector(features))


def test_the_four_tokens_of_a_square_become_one_row_by_row() -> None:
    projector = build_projector(BOTH[1], Joint(tokens=16, token_width=1, decoder_width=4))
    with torch.no_grad():
        projector.proj.weight.copy_(torch.eye(4))
    seen = projector(torch.arange(16.0).view(1, 16, 1))  # tokens 0 to 3 are the first row of four
    assert seen[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
