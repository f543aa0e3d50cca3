"""Numbers are learned in units of their deviation, and told in their own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from torch import Tensor

from plumbline.errors import ConfigError, DataError
from plumbline.evaluation.result import EvaluationJob
from plumbline.kinds.regression.evaluate import evaluate
from plumbline.kinds.regression.model import RegressorSpec
from plumbline.kinds.regression.rows import NumberedRows
from plumbline.kinds.regression.settings import RegressionEvaluationConfig
from plumbline.kinds.regression.train import Scale, collate
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import build_input
from plumbline.models.stored import load_model
from plumbline.training.task import TrainingJob
from tests.tiny import Row, array, make_cache, write_rows

MakeJob = Callable[..., TrainingJob]
Caches = Callable[[str], TrainingCache]


def test_targets_are_standardised_by_part_and_missing_ones_are_nan(
    make_job: MakeJob, caches: Caches
) -> None:
    job, cache = make_job("regression"), caches("numbers")
    assert isinstance(job.train, NumberedRows)
    samples = [job.train.sample(i, 0) for i in range(len(job.train))]
    targets = job.task.collate(samples)["targets"].double().numpy()
    np.testing.assert_allclose(np.nanmean(targets, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(targets, axis=0), 1, rtol=1e-4)
    values, rows = cache.values("train"), cache.rows("train")
    for at, part in enumerate(cache.facts["parts"]):
        for row, number in enumerate(job.train.numbers):
            found = values[(rows["features"] == number) & (rows["part"] == at)]
            expected = found[0] if len(found) else np.nan
            assert np.array_equal(job.train.values[row, at], expected, equal_nan=True), part
    assert np.isnan(targets).any()


def test_repeated_measurements_all_count(tmp_path: Path, make_job: MakeJob) -> None:
    """None is decided by the first, and mean and deviation are those of all that train."""
    (tmp_path / "clean").mkdir()
    values = [(0, 1.0), (1, 4.0), (0, 3.0), (0, 3.0), (2, 7.0)]
    rows: list[Row] = [{"features": array(at), "value": repr(value)} for at, value in values]
    rows.append({"text": "no features", "value": "1000"})
    named = [{"sample_id": str(at)} | row for at, row in enumerate(rows)]
    write_rows(tmp_path / "clean", "train", named)
    job = make_job("regression", cache=make_cache(tmp_path, {}))
    assert isinstance(job.train, NumberedRows)
    assert job.train.numbers.tolist() == [0, 0, 0, 1, 2]
    assert job.train.values[:, 0].tolist() == [1, 3, 3, 4, 7]
    assert isinstance(job.spec, RegressorSpec)
    assert job.spec.mean[""] == pytest.approx(3.6, rel=1e-8)
    assert job.spec.std[""] == pytest.approx(np.std([1, 3, 3, 4, 7]), rel=1e-8)


def test_errors_weigh_by_their_rows(tmp_path: Path, make_job: MakeJob) -> None:
    """With mean 1 over the training samples; a row that says nothing weighs 1."""
    (tmp_path / "clean").mkdir()
    weights = ["3", None, "0", "4"]
    rows: list[Row] = [
        {"sample_id": str(at), "features": array(at), "value": repr(at * 1.5), "weight": weight}
        for at, weight in enumerate(weights)
    ]
    write_rows(tmp_path / "clean", "train", rows)
    cache = make_cache(tmp_path, {})
    found = {}
    for weighted in (False, True):
        job = make_job("regression", cache=cache, task={"row_weights": weighted})
        batch = job.task.collate([job.train.sample(i, 0) for i in range(4)])
        with torch.inference_mode():
            errors = job.model.eval()(**batch["inputs"])[""][:, 0] - batch["targets"][:, 0]
            found[weighted] = job.task.loss(job.model, batch)
        expected = errors.square() * (torch.tensor([1.5, 0.5, 0.0, 2.0]) if weighted else 1)
        torch.testing.assert_close(found[weighted].total, expected.sum())
        assert int(found[weighted].count) == 4
    assert found[True].total != found[False].total


def test_weights_that_are_not_there_or_mean_nothing_are_refused(
    tmp_path: Path, make_job: MakeJob, caches: Caches
) -> None:
    with pytest.raises(ConfigError, match="the dataset has no column weight"):
        make_job("regression", cache=caches("numbers"), task={"row_weights": True})
    for weights, message in (("-1", "weight -1 in split 'train'"), ("0", "all .* weigh 0")):
        folder = tmp_path / weights
        (folder / "clean").mkdir(parents=True)
        row = {"features": array(0), "value": "1", "weight": weights}
        write_rows(folder / "clean", "train", [{"sample_id": str(at)} | row for at in range(2)])
        with pytest.raises((ConfigError, DataError), match=message):
            make_job("regression", cache=make_cache(folder, {}), task={"row_weights": True})


def test_a_part_that_never_varies_is_learned_all_the_same(
    tmp_path: Path, make_job: MakeJob
) -> None:
    (tmp_path / "clean").mkdir()
    rows = [{"sample_id": str(i), "features": array(i), "value": "3.5"} for i in range(4)]
    write_rows(tmp_path / "clean", "train", rows)
    job = make_job("regression", cache=make_cache(tmp_path, {}))
    batch = job.task.collate([job.train.sample(i, 0) for i in range(4)])
    assert not batch["targets"].any()
    (outputs,) = job.model(**batch["inputs"]).values()
    torch.testing.assert_close(
        job.task.loss(job.model, batch).total, outputs.square().sum(), rtol=1e-6, atol=0
    )


def test_a_part_without_a_number_teaches_its_head_nothing(make_job: MakeJob) -> None:
    job = make_job("regression")
    batch = job.task.collate([job.train.sample(i, 0) for i in range(8)])
    heads = {name: p for name, p in job.model.named_parameters() if "heads" in name}

    def gradients() -> dict[str, Tensor]:
        total = job.task.loss(job.model, batch).total
        found = torch.autograd.grad(total, list(heads.values()), materialize_grads=True)
        return dict(zip(heads, found, strict=True))

    whole = gradients()
    batch["targets"][:, 1] = float("nan")
    for name, gradient in gradients().items():
        expected = whole[name] * ("age" in name)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
        assert whole[name].any()


def test_figures_are_in_the_units_of_the_data(
    stored_case: Callable[[str], Path], caches: Caches
) -> None:
    stored, cache = load_model(stored_case("regression")), caches("numbers")
    job = EvaluationJob(stored, cache, RegressionEvaluationConfig(), torch.device("cpu"))
    result = evaluate(job)
    spec = stored.spec
    assert isinstance(spec, RegressorSpec)
    ids = cache.sample_ids("test").to_pylist()
    expected = dict(
        zip(
            zip(ids, cache.rows("test")["part"].tolist(), strict=True),
            cache.values("test"),
            strict=True,
        )
    )
    assert len(result.predictions) == len(expected)
    inputs = build_input(spec.inputs, cache, image_size=None)
    samples = NumberedRows(cache, "test", inputs, spec.inputs.source, spec.parts)
    bound = partial(collate, inputs=inputs, scale=Scale.of(spec), seed=0, training=False)
    for at, part in enumerate(spec.parts):
        rows = [row for row in result.predictions if row["part"] == part]
        for row in rows:
            assert row["value"] == expected[row["sample_id"], cache.facts["parts"].index(part)]
        said, values = (np.array([row[x] for row in rows]) for x in ("prediction", "value"))
        alone = []
        for index in np.flatnonzero(samples.rows[:, at] >= 0):
            with torch.inference_mode():
                outputs = stored.model(**bound([samples.sample(int(index), 0)])["inputs"])
            alone.append(outputs[part].item() * spec.std[part] + spec.mean[part])
        np.testing.assert_allclose(said, alone, rtol=1e-5)
        figures = {
            "mae": sklearn.metrics.mean_absolute_error(values, said),
            "mse": sklearn.metrics.mean_squared_error(values, said),
            "r2": sklearn.metrics.r2_score(values, said),
            "pearson": scipy.stats.pearsonr(values, said).statistic,
        }
        found = {name: result.metrics[f"{part}/{name}"] for name in figures}
        assert found == pytest.approx(figures, rel=1e-9)


def test_a_dataset_without_numbers_is_refused(make_job: MakeJob, caches: Caches) -> None:
    with pytest.raises(DataError, match="this dataset has no values to predict"):
        make_job("regression", cache=caches("signals"))
