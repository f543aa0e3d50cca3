"""Graphs of lower precision: what they hold, what they cost, and that a bundle runs them."""

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from plumbline.errors import ExportError
from plumbline.export import onnx_precision, onnx_writer
from plumbline.export.bundle import write_bundle
from plumbline.export.format_writers import reader_of
from plumbline.export.formats import FORMATS
from plumbline.export.graphs import GraphSpec, Written
from plumbline.export.onnx_precision import write_fp16, write_int8
from plumbline.export.onnx_writer import write_onnx
from plumbline.export.plan import BundleSource
from plumbline.export.runtime.files import BundleError
from plumbline.export.runtime.model import Model, selftest
from plumbline.files import dump_json, read_json, staged_folder, verify_digests, write_digests
from plumbline.loading.cache_reader import TrainingCache
from plumbline.stages.export_model import main, schema_of_kind
from tests.export import opening
from tests.export.conftest import settings_of
from tests.tiny import CASES

FORMATS_OF = ("onnx", "onnx_fp16", "onnx_int8")
BundleOf = Callable[..., Path]


def model_of(bundle: Path, format: str) -> Model:
    return opening.model_of(bundle, format=format, open_graph=reader_of(format))


class Tied(nn.Module):
    """An embedding that is the last layer too, a linear layer with a bias, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        # Wide enough that a bias, of 320 bytes, lies beside the graph where weights do.
        self.embedding = nn.Embedding(40, 80)
        self.linear = nn.Linear(80, 80)
        self.conv = nn.Conv1d(80, 80, 3, padding=1)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        seen = self.linear(self.embedding(input_ids))  # [batch, seq, 80]
        seen = self.conv(seen.transpose(1, 2)).mean(dim=2)
        return nn.functional.linear(seen, self.embedding.weight)


@pytest.fixture
def float32(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    ids = torch.arange(10).view(2, 5)
    spec = GraphSpec(
        Tied().eval(), {"input_ids": ids}, {"input_ids": {0: "batch", 1: "seq"}}, ["logits"]
    )
    path = tmp_path / "model.onnx"
    write_onnx(spec, path)
    return path


def computed(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(0, 40, (3, 9))
    (logits,) = session.run(None, {"input_ids": ids})
    return np.asarray(logits)


def types(path: Path) -> dict[str, int]:
    """Data type of each matrix of a graph, by name."""
    return {
        value.name: value.data_type
        for value in onnx.load(path).graph.initializer
        if len(value.dims) > 1
    }


def test_fp16_rounds_each_matrix_and_computes_in_float32(float32: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    written = write_fp16({"model": float32}, out)
    assert (written.parts, written.external) == ({"model": "model.fp16.onnx"}, [])
    half = out / "model.fp16.onnx"
    assert set(types(half).values()) == {onnx.TensorProto.FLOAT16}
    assert len(types(half)) == len(types(float32)) == 3
    # The same graph whose weights were rounded beforehand gives the same bits.
    model = onnx.load(float32)
    for value in model.graph.initializer:
        if len(value.dims) > 1:
            rounded = onnx.numpy_helper.to_array(value).astype(np.float16).astype(np.float32)
            value.CopyFrom(onnx.numpy_helper.from_array(rounded, value.name))
    onnx.save(model, tmp_path / "rounded.onnx")
    np.testing.assert_array_equal(computed(half), computed(tmp_path / "rounded.onnx"))
    assert not np.array_equal(computed(half), computed(float32))


def test_what_float16_cannot_hold_stays_float32(float32: Path, tmp_path: Path) -> None:
    model = onnx.load(float32)
    (large,) = [v for v in model.graph.initializer if v.name == "embedding.weight"]
    values = onnx.numpy_helper.to_array(large).copy()
    values[7, 3] = 70_000.0
    large.CopyFrom(onnx.numpy_helper.from_array(values, large.name))
    onnx.save(model, float32)
    out = tmp_path / "out"
    out.mkdir()
    write_fp16({"model": float32}, out)
    kept = types(out / "model.fp16.onnx")
    assert kept.pop("embedding.weight") == onnx.TensorProto.FLOAT
    assert set(kept.values()) == {onnx.TensorProto.FLOAT16}
    assert np.isfinite(computed(out / "model.fp16.onnx")).all()


def test_int8_computes_linear_layers_in_whole_numbers_and_keeps_a_tied_embedding(
    float32: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_int8({"model": float32}, out)
    path = out / "model.int8.onnx"
    graph = onnx.load(path).graph
    operations = [node.op_type for node in graph.node]
    assert operations.count("MatMulInteger") == 2
    assert not {"MatMul", "Gemm"} & set(operations)
    assert {"Gather", "Conv"} <= set(operations)
    held = types(path)
    int8 = [name for name, kind in held.items() if kind == onnx.TensorProto.INT8]
    assert len(int8) == 2
    assert set(held.values()) == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16}
    weights = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    for name in int8:
        # 7 bits: no sum of two products of 8 bits saturates in 16.
        assert np.abs(weights[name].astype(int)).max() <= 64
    expected, got = computed(float32), computed(path)
    assert 0 < np.abs(expected - got).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("write", [write_fp16, write_int8])
def test_the_same_graph_gives_the_same_bytes_in_any_folder(
    float32: Path, tmp_path: Path, write: Callable[..., object]
) -> None:
    digests = []
    for name in ("one", "two"):
        out = tmp_path / name
        out.mkdir()
        shutil.copy(float32, out / "source.onnx")
        write({"model": out / "source.onnx"}, out)
        (file,) = out.glob("model.*.onnx")
        digests.append(hashlib.sha256(file.read_bytes()).hexdigest())
        assert str(tmp_path).encode() not in file.read_bytes()
    assert digests[0] == digests[1]


@pytest.mark.parametrize("limit", [100, 1_000_000])
@pytest.mark.parametrize("write", [write_fp16, write_int8])
def test_weights_in_a_file_of_their_own_come_along(
    float32: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[dict[str, Path], Path], Written],
    limit: int,
) -> None:
    """As those of a model of more than 1.5 GB, whose smaller form may be of less."""
    small, out = tmp_path / "small", tmp_path / "out"
    small.mkdir()
    out.mkdir()
    write({"model": float32}, small)
    (expected,) = small.glob("*.onnx")
    monkeypatch.setattr(onnx_writer, "EXTERNAL_BYTES", 100)
    onnx_writer.save_graph(onnx_precision.load_graph(float32), tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").is_file()
    monkeypatch.setattr(onnx_writer, "EXTERNAL_BYTES", limit)
    written = write({"model": tmp_path / "large.onnx"}, out)
    file = written.parts["model"]
    assert written.external == ([f"{file}.data"] if limit == 100 else [])
    (tmp_path / "large.onnx.data").unlink()
    np.testing.assert_array_equal(computed(out / file), computed(expected))


SLOW = ("vlm_turns", "causal_lm_rows", "masked_lm_rows", "seq2seq")


@pytest.mark.parametrize(
    "name", ["vlm", "features", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_bundle_says_what_each_format_costs_and_answers_in_it(
    bundle_of: BundleOf, name: str
) -> None:
    bundle = bundle_of(name, *FORMATS_OF)
    verify_digests(bundle)
    metadata = read_json(bundle / "metadata.json")["formats"]
    assert list(read_json(bundle / "contract.json")["formats"]) == [*FORMATS_OF]
    assert metadata["onnx"].keys() >= {"parity"}
    readme = (bundle / "README.md").read_text(encoding="utf-8")
    for format in FORMATS_OF[1:]:
        cost = metadata[format]["cost"]
        assert "parity" not in metadata[format]
        assert cost["samples"] == metadata["onnx"]["parity"]["samples"]
        assert 0 < cost["max_logits_difference"] < 5
        size = sum(
            (bundle / file).stat().st_size
            for file in read_json(bundle / "contract.json")["formats"][format].values()
        )
        assert f"| `{format}` | {size:,} | {cost['value']} | " in readme
        model = model_of(bundle, format=format)
        stored = read_json(bundle / "selftest" / f"{format}.json")["answers"]
        assert len(stored) == len(read_json(bundle / "selftest/selftest.json")["answers"]) > 0
        assert model.format == format
    # Nothing that differs from run to run.
    assert "_ms" not in json.dumps(metadata)
    assert "seconds" not in json.dumps(metadata)


def test_the_scripts_take_the_format_without_torch_and_plumbline(bundle_of: BundleOf) -> None:
    bundle = bundle_of("causal_lm_rows", *FORMATS_OF)
    for format in FORMATS_OF[1:]:
        code = "import runpy, sys; sys.modules.update(torch=None, plumbline=None); "
        code += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        command = ["inference.py", "--selftest", "--format", format]
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, *command],
            cwd=bundle,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["format"] == format


def test_the_stage_says_size_speed_and_cost_and_writes_the_same_bytes_again(
    folder_of: Callable[[str], Path],
    caches: Callable[[str], TrainingCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = CASES["features"]
    export = settings_of("features", formats=["onnx", "onnx_int8"]).model_dump(mode="json")
    task = {"kind": case.kind, "data": case.data, "export": export}
    written = []
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        monkeypatch.chdir(tmp_path / turn)
        shutil.copytree(folder_of("features"), "models/tasks/any")
        shutil.copytree(caches(case.data).folder, f"work/cache/{case.data}")
        params = dump_json({"threads": 1, "tasks": {"any": task}})
        Path("params.yaml").write_text(params, encoding="utf-8")
        with caplog.at_level(logging.INFO, "plumbline.stage"):
            main(["any"])
        written.append(verify_digests(Path("exports/any")))
    assert written[0] == written[1]
    (line, _) = [r.getMessage() for r in caplog.records if "export_model any: " in r.getMessage()]
    figure = r"[\w ]+ [\d.]+, the model itself [\d.]+, [\d.]+ MB, [\d.]+ ms an answer"
    assert re.search(r"onnx \(.* logits within \S+, [\d.]+ MB, [\d.]+ ms an answer\)", line)
    assert re.search(rf"onnx_int8 \({figure}\)", line)


def test_the_answers_that_a_format_is_held_to_are_its_own(
    bundle_of: BundleOf, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle_of("features", *FORMATS_OF), tmp_path / "copy"))
    file = copy / "selftest/onnx_int8.json"
    whole = read_json(copy / "selftest/selftest.json")
    assert read_json(file)["answers"] != whole["answers"], "8 bits changed no digit of six"
    assert selftest(model_of(copy, format="onnx_int8"))["selftest"] == "ok"
    stored = read_json(file)
    stored["answers"][0]["answer"] = {"something": "else"}
    file.write_text(dump_json(stored), encoding="utf-8")
    write_digests(copy)
    with pytest.raises(BundleError, match="answered"):
        selftest(model_of(copy, format="onnx_int8"))
    assert selftest(model_of(copy, format="onnx"))["selftest"] == "ok"


def test_a_default_bundle_has_nothing_of_it(bundle_of: BundleOf) -> None:
    bundle = bundle_of("features")
    assert "Smaller graphs" not in (bundle / "README.md").read_text(encoding="utf-8")
    assert not list(bundle.glob("*.int8.onnx")) + list(bundle.glob("selftest/onnx*"))
    assert {
        key
        for facts in read_json(bundle / "metadata.json")["formats"].values()
        for key in facts
        if key == "cost"
    } == set()


@pytest.mark.parametrize(
    "formats", [["onnx_int8"], ["torchscript", "onnx_fp16"], ["onnx_int8", "onnx"]]
)
def test_a_format_is_named_behind_the_one_that_it_is_made_from(formats: list[str]) -> None:
    settings = {"threads": 1, "kind": "regression", "data": "d", "export": {"formats": formats}}
    with pytest.raises(ValidationError, match=r"is made from onnx: name onnx before it"):
        schema_of_kind("regression").model_validate(settings)


def test_a_format_that_computes_no_numbers_is_refused(
    source_of: Callable[[str], BundleSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: object) -> None:
        for value in model.graph.initializers.values():  # type: ignore[attr-defined]
            if value.const_value is not None and value.const_value.numpy().dtype == np.float32:
                array = np.full(value.const_value.shape.numpy(), np.nan, np.float32)
                value.const_value = onnx_precision.ir.tensor(array, name=value.name)

    monkeypatch.setattr(onnx_precision, "hold_in_16_bits", broken)
    settings = settings_of("regression", formats=["onnx", "onnx_fp16"])
    with pytest.raises(ExportError, match=r"onnx_fp16: the model gave no finite scores"):
        write_bundle(source_of("regression"), settings, tmp_path)


def test_the_first_format_is_of_full_precision(
    source_of: Callable[[str], BundleSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FORMATS, "_entries", FORMATS.entries())
    FORMATS._entries["torchscript"] = replace(FORMATS["torchscript"], loses="everything")
    settings = settings_of("regression", formats=["torchscript", "onnx"])
    with (
        pytest.raises(ExportError, match=r"torchscript: of lower precision, and the first format"),
        staged_folder(tmp_path / "out") as partial,
    ):
        write_bundle(source_of("regression"), settings, partial)
