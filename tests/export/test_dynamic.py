"""Graphs of every encoder serve any batch and length, and padding changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from plumbline.export.graphs import GraphSpec, ids_examples
from plumbline.export.onnx_writer import write_onnx
from plumbline.export.plan import BundleSource
from plumbline.export.runtime import format_onnx, format_torchscript
from plumbline.export.torchscript import write_torchscript
from plumbline.kinds.headed.export import HeadedGraph
from plumbline.kinds.headed.model import Classifier
from plumbline.models.encoder_config import AnyEncoder
from plumbline.models.encoders import encoder_for
from plumbline.models.pretrained import Origin
from tests.checkpoints import write_checkpoint
from tests.export.opening import model_of
from tests.tiny import SEQUENCE, TEXT, VIT

TOLERANCE = 1e-5  # float32 kernels sum in other orders; the logits here are around 1
RESNET = {
    "name": "resnet",
    "image_size": 16,
    "stem_channels": 8,
    "stages": [{"channels": 8, "stride": 1}, {"channels": 16}],
}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "resnet": RESNET,
    "resnet_group": RESNET | {"norm": "group"},
    "steps_mean": SEQUENCE,
    "steps_max": SEQUENCE | {"pooling": "max"},
    "steps_each": SEQUENCE | {"pooling": "none"},
    "steps_flat": SEQUENCE | {"pooling": "none", "flatten": True},
    "steps_convolved": SEQUENCE | {"layers": 0},
    "text_mean": TEXT,
    "text_max": TEXT | {"pooling": "max"},
}
SHAPES = [(1, 1), (1, 2), (3, 5), (2, 9), (5, 40)]


def examples(name: str, batch: int, length: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Inputs of an encoder, the second row padded, and their axes."""
    random = torch.Generator().manual_seed(batch * 100 + length)
    lengths = torch.full((batch, 1), length)
    lengths[1:2] = (length + 1) // 2
    mask = torch.arange(length) < lengths
    if name.startswith("text"):
        ids = torch.randint(0, 50, (batch, length), generator=random)
        return {"input_ids": ids, "attention_mask": mask.long()}, ids_examples(50)[1]
    if name.startswith("steps"):
        axes = {0: "batch", 1: "steps"}
        steps = torch.randn(batch, length, 3, generator=random)
        return {"steps": steps, "mask": mask}, {"steps": axes, "mask": axes}
    pixels = torch.randn(batch, 3, 16, 16, generator=random)
    return {"pixel_values": pixels}, {"pixel_values": {0: "batch"}}


def check(name: str, format: str, path: Path, origin: Origin | None = None) -> None:
    config = TypeAdapter(AnyEncoder).validate_python(ENCODERS[name])
    torch.manual_seed(0)
    model = Classifier(encoder_for(config, 3, 50, origin), {"one": 3, "two": 2}, 0.0).eval()
    inputs, axes = examples(name, 2, 9)
    graph = GraphSpec(HeadedGraph(model, list(inputs)).eval(), inputs, axes, ["one", "two"])
    (write_onnx if format == "onnx" else write_torchscript)(graph, path)
    reader = format_onnx if format == "onnx" else format_torchscript
    run = reader.open_graph(path, threads=1)
    for batch, length in SHAPES:
        given, _ = examples(name, batch, length)
        with torch.inference_mode():
            expected = model(**given).values()
        got = run([value.numpy() for value in given.values()])
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_traced_encoder_serves_every_batch_and_length(name: str, tmp_path: Path) -> None:
    check(name, "torchscript", tmp_path / "model.pt")


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_a_sentence_encoder_serves_every_batch_and_length(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint("sentences", tmp_path / "theirs")
    modes = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
    declared = {"embedding_dimension": 32, "pooling_mode": modes}
    (folder / "1_Pooling/config.json").write_text(json.dumps(declared), encoding="utf-8")
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    del modules[2]  # its dense layer is of two poolings
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    monkeypatch.setitem(ENCODERS, "text_declared", TEXT | {"pooling": "checkpoint"})
    check("text_declared", format, tmp_path / "model", Origin(folder, with_weights=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_in_onnx_serves_every_batch_and_length(name: str, tmp_path: Path) -> None:
    check(name, "onnx", tmp_path / "model.onnx")


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
@pytest.mark.parametrize("name", ["audio", "text", "regression", "masked_lm_rows"])
def test_a_padded_batch_gives_what_its_rows_give_alone(
    bundle_of: Callable[..., Path], name: str, format: str
) -> None:
    run = model_of(bundle_of(name), format=format).task.graphs["model"]
    kind = "text" if name in ("text", "masked_lm_rows") else "steps_mean"
    inputs, _ = examples(kind, 3, 12)
    if name == "audio":
        inputs["steps"] = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(0))
    if kind == "text":
        inputs["input_ids"] %= 20
    arrays = [value.numpy() for value in inputs.values()]
    together = run(arrays)
    for row, length in enumerate([12, 6, 12]):
        alone = run([array[row : row + 1, :length] for array in arrays])
        for ours, theirs in zip(alone, together, strict=True):
            whole = theirs[row : row + 1]
            expected = whole if whole.ndim == 2 else whole[:, :length]
            np.testing.assert_allclose(ours, expected, atol=TOLERANCE)


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_sources_and_targets_of_any_length_are_served_together_or_alone(
    bundle_of: Callable[..., Path], source_of: Callable[[str], BundleSource], format: str
) -> None:
    task: Any = model_of(bundle_of("seq2seq"), format=format).task
    model = source_of("seq2seq").stored.model
    for batch, length, written in ((1, 1, 1), (3, 7, 4), (2, 12, 9)):
        inputs, _ = examples("text", batch, length)
        targets = torch.randint(0, 50, (batch, written), generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = model(**inputs, decoder_input_ids=targets)[:, -1].numpy()
        mask = inputs["attention_mask"].numpy()
        hidden = task.encode([inputs["input_ids"].numpy(), mask])
        got = task.decode(hidden, mask, targets.numpy())
        np.testing.assert_allclose(got, expected, atol=1e-4)  # logits of some tens
