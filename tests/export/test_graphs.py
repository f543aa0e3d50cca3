from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from plumbline.export import onnx_writer
from plumbline.export.graphs import decoder_sizes
from plumbline.export.onnx_writer import write_onnx
from plumbline.export.plan import BundleSource
from plumbline.export.torchscript import write_torchscript
from plumbline.kinds.vlm.graphs import DecoderGraph, VisionGraph, vision_spec
from plumbline.kinds.vlm.runtime import VlmTask
from tests.export.opening import model_of

TOLERANCE = 2e-4  # float32 kernels sum in other orders; the logits here are around 1

SHAPES = [
    # batch, images, seq, past
    (1, 4, 5, 0),
    (3, 4, 5, 0),
    (1, 0, 1, 9),
    (3, 0, 1, 9),
    (1, 0, 1, 1),
    (1, 1, 1, 0),
    (2, 0, 6, 2),
]


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def exported(bundle: Path, request: pytest.FixtureRequest) -> VlmTask:
    task = model_of(bundle, format=request.param).task
    assert isinstance(task, VlmTask)
    return task


@pytest.mark.parametrize(("batch", "images", "seq", "past"), SHAPES)
def test_one_decoder_graph_serves_every_length(
    exported: VlmTask, source: BundleSource, batch: int, images: int, seq: int, past: int
) -> None:
    model = source.stored.model
    sizes = decoder_sizes(model.decoder)
    random = torch.Generator().manual_seed(0)
    cache = (sizes.layers, batch, sizes.kv_heads, past, sizes.head_dim)
    inputs = (
        torch.randn(batch, images, sizes.width, generator=random),
        torch.randint(0, sizes.vocab_size, (batch, seq), generator=random),
        torch.randn(cache, generator=random),
        torch.randn(cache, generator=random),
    )
    with torch.inference_mode():
        expected = DecoderGraph(model).eval()(*inputs)
    got = exported.graphs["decoder"]([tensor.numpy() for tensor in inputs])
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_vision_graph_serves_every_batch(
    exported: VlmTask, source: BundleSource, batch: int
) -> None:
    pixels = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = VisionGraph(source.stored.model).eval()(pixels)
    got = exported.embed(pixels.numpy())
    np.testing.assert_allclose(got, expected.numpy(), atol=TOLERANCE)


def test_one_token_at_a_time_gives_what_the_whole_sequence_gives(
    exported: VlmTask, source: BundleSource
) -> None:
    ids = np.array([[3, 70, 8, 200], [9, 9, 1, 30]])
    embeds = exported.embed(np.zeros((2, 3, 16, 16), np.float32))
    whole = exported.decoding(2).prefill(ids, embeds)
    stepwise = exported.decoding(2)
    stepwise.prefill(ids[:, :1], embeds)
    for column in range(1, 3):
        stepwise.step(ids[:, column])
    np.testing.assert_allclose(stepwise.step(ids[:, 3]), whole, atol=TOLERANCE)


def test_onnx_files_pass_the_checker_and_hold_no_origin(bundle: Path) -> None:
    for name in ("vision.onnx", "decoder.onnx"):
        onnx.checker.check_model(str(bundle / name), full_check=True)
        model = onnx.load(bundle / name)
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_large_weights_lie_in_a_file_beside_the_graph(
    source: BundleSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_writer, "EXTERNAL_BYTES", 0)
    write_onnx(vision_spec(source.stored.model, 16, 3), tmp_path / "vision.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"vision.onnx", "vision.onnx.data"}
    places = {
        entry.value
        for tensor in onnx.load(
            tmp_path / "vision.onnx", load_external_data=False
        ).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert places == {"vision.onnx.data"}


def test_a_second_trace_in_one_process_gives_the_same_bytes(
    bundle: Path, source: BundleSource, tmp_path: Path
) -> None:
    write_torchscript(vision_spec(source.stored.model, 16, 3), tmp_path / "vision.pt")
    again = (tmp_path / "vision.pt").read_bytes()
    assert again == (bundle / "vision.torchscript.pt").read_bytes()
