from pathlib import Path

import numpy as np

from plumbline.report.history import POINTS, Series, read_series, write_curves


def test_values_that_are_not_finite_and_empty_cells_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(
        "global_step,loss,norm,none\n1,2.5,nan,\n2,inf,1.5,\n3,nan,,\n4,0.5,2.5,\n",
        encoding="utf-8",
    )
    series = read_series(file)
    assert set(series) == {"loss", "norm"}
    assert series["loss"].steps.tolist() == [1, 4]
    assert series["norm"].values.tolist() == [1.5, 2.5]


def test_no_file_means_no_series(tmp_path: Path) -> None:
    assert read_series(tmp_path / "val.csv") == {}


def test_a_long_curve_is_averaged_and_keeps_its_mean() -> None:
    values = np.random.default_rng(0).normal(size=4 * POINTS)
    thinned, width = Series(np.arange(len(values)) + 1.0, values).thinned()
    assert width == 4
    assert len(thinned.values) == POINTS
    assert thinned.steps[0] == 2.5
    np.testing.assert_allclose(thinned.values.mean(), values.mean(), rtol=0, atol=1e-12)


def test_a_curve_with_a_shorter_last_part_is_averaged_by_its_own_count() -> None:
    thinned, width = Series(np.arange(POINTS + 1.0), np.ones(POINTS + 1)).thinned()
    assert width == 2
    assert thinned.values.tolist() == [1.0] * len(thinned.values)
    assert thinned.steps[-1] == POINTS


def test_a_short_curve_stays_as_it_is() -> None:
    series = Series(np.arange(3.0), np.arange(3.0))
    assert series.thinned() == (series, 1)


def test_the_curves_that_dvc_plots_are_columns_of_the_history(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "curves"
    model.mkdir()
    table = "global_step,loss,lr\n1,2.5,1e-3\n2,nan,0.30000000000000004\n"
    (model / "train.csv").write_text(table, encoding="utf-8")
    write_curves(model, out)
    written = {file.name: file.read_text(encoding="utf-8") for file in out.iterdir()}
    assert written == {
        "training_loss.csv": "global_step,loss\n1,2.5\n2,nan\n",
        "learning_rate.csv": "global_step,lr\n1,1e-3\n2,0.30000000000000004\n",
        "validation_loss.csv": "global_step,loss\n",
    }
