"""Clips and features are described from each distinct cell."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from plumbline.data.arrays import encode_array
from plumbline.errors import DataError
from plumbline.shapes.detect import ShapesConfig, detect_shapes

ANY = ShapesConfig(min_train_rows=1)


def write(clean: Path, split: str, **columns: list[Any]) -> None:
    media = ("image", "audio", "features")
    table = {
        name: pa.array(cells, pa.binary() if name in media else pa.string())
        for name, cells in columns.items()
    }
    pq.write_table(pa.table(table), clean / f"{split}.parquet")


def clip(seconds: float, rate: int = 8000, channels: int = 1, container: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    samples = np.zeros((round(seconds * rate), channels), np.float32)
    soundfile.write(buffer, samples, rate, format=container)
    return buffer.getvalue()


def test_clips_are_described_from_their_headers_each_distinct_one_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = clip(0.5), clip(1.5, 44_100, channels=2)
    write(tmp_path, "train", audio=[one, two, one, None])
    write(tmp_path, "val", audio=[clip(1.0, container="FLAC"), one])
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    assert detect_shapes(tmp_path, ANY)["audio"] == {
        "clips": 3,
        "sample_rates": {"8000": 2, "44100": 1},
        "channels": {"1": 2, "2": 1},
        "longest_s": 1.5,
        "mean_s": 1.0,
    }


def arrays(*shapes: tuple[int, int], seed: int = 0) -> list[bytes]:
    draw = np.random.default_rng(seed)
    return [encode_array(draw.normal(5.0, 2.0, shape)) for shape in shapes]


def test_features_have_channels_lengths_and_moments_of_train(tmp_path: Path) -> None:
    train, test = arrays((4, 2), (6, 2)), arrays((20, 2), seed=1)
    write(tmp_path, "train", features=[*train, train[0], None])
    write(tmp_path, "test", features=test)
    found = detect_shapes(tmp_path, ANY)["features"]
    assert {key: found[key] for key in ("arrays", "channels", "longest", "shortest", "mean")} == {
        "arrays": 3,
        "channels": 2,
        "longest": 20,
        "shortest": 4,
        "mean": 10.0,
    }
    values = np.concatenate([np.load(io.BytesIO(cell)) for cell in train]).astype(np.float64)
    np.testing.assert_allclose(found["mean_of_channels"], values.mean(0), rtol=1e-8)
    np.testing.assert_allclose(found["std_of_channels"], values.std(0), rtol=1e-8)


def test_another_split_gives_the_shape_where_train_has_no_features(tmp_path: Path) -> None:
    write(tmp_path, "train", features=[None, None], text=["a", "b"])
    write(tmp_path, "test", features=arrays((3, 5)), text=["c"])
    assert detect_shapes(tmp_path, ANY)["features"]["channels"] == 5


def test_the_setting_gives_the_shape_where_no_split_has_features(tmp_path: Path) -> None:
    write(tmp_path, "train", features=[None, None])
    declared = ShapesConfig(features=[None, 7])
    assert detect_shapes(tmp_path, declared)["features"] == {"arrays": 0, "channels": 7}


def test_without_any_source_one_error_lists_those_that_were_tried(tmp_path: Path) -> None:
    write(tmp_path, "train", features=[None, None])
    with pytest.raises(DataError, match="no shape of features can be found; tried") as error:
        detect_shapes(tmp_path, ANY)
    tried = "the setting detect_shapes.features, split train, split val, split test"
    assert str(error.value).endswith(f"in this order: {tried}")


@pytest.mark.parametrize("column", ["image", "audio"])
def test_a_column_without_any_file_is_not_described(column: str, tmp_path: Path) -> None:
    write(tmp_path, "train", **{column: [None, None]}, text=["a", "b"])
    assert set(detect_shapes(tmp_path, ANY)) == {"rows", "texts"}


@pytest.mark.parametrize("declared", [[None, 3], [5, 2]])
def test_a_declared_shape_that_the_data_contradicts_is_refused_with_both(
    declared: list[int | None], tmp_path: Path
) -> None:
    write(tmp_path, "train", features=arrays((4, 2)))
    config = ShapesConfig(min_train_rows=1, features=declared)
    shown = str(declared).replace("None", "null").replace("[", r"\[").replace("]", r"\]")
    message = f"features = {shown} contradicts the data: split train has .* 4 steps and 2 channels"
    with pytest.raises(DataError, match=message) as error:
        detect_shapes(tmp_path, config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("declared", [[None, 2], [4, 2]])
def test_a_declared_shape_that_the_data_has_is_fine(
    declared: list[int | None], tmp_path: Path
) -> None:
    write(tmp_path, "train", features=arrays((4, 2), (4, 2)))
    assert detect_shapes(tmp_path, ShapesConfig(features=declared))["features"]["channels"] == 2


@pytest.mark.parametrize("where", ["train", "val"])
def test_ragged_channels_are_refused(where: str, tmp_path: Path) -> None:
    first, other = arrays((4, 2), (4, 3))
    write(tmp_path, "train", features=[first, other] if where == "train" else [first])
    write(tmp_path, "val", features=[other])
    message = f"split {where} has an array of 4 steps and 3 channels, another one in train has 2"
    with pytest.raises(DataError, match=message):
        detect_shapes(tmp_path, ANY)


def test_a_shape_without_its_column_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", text=["a", "b"])
    with pytest.raises(DataError, match=r"detect_shapes\.features is set, but there is no column"):
        detect_shapes(tmp_path, ShapesConfig(features=[None, 2]))


@pytest.mark.parametrize("features", [[], [3], [3, None], [0, 3], [None, 0], [1, 2, 3]])
def test_what_is_no_shape_is_refused(features: list[int | None]) -> None:
    with pytest.raises(ValueError, match=r"\[time or null, channels\] is expected"):
        ShapesConfig(features=features)


def test_a_shape_does_not_depend_on_how_rows_lie_in_row_groups(tmp_path: Path) -> None:
    cells = arrays(*((steps, 3) for steps in range(1, 30)))
    found = []
    for size in (1, 4, 100):
        folder = tmp_path / str(size)
        folder.mkdir()
        table = pa.table({"features": pa.array(cells * 2, pa.binary())})
        pq.write_table(table, folder / "train.parquet", row_group_size=size)
        found.append(detect_shapes(folder, ANY))
    assert found[0] == found[1] == found[2]
