"""Heads on one encoder: each learns from its own labels alone, and the data say what they are."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from pydantic import ValidationError
from torch import Tensor

from plumbline.batch import IGNORE_INDEX, Batch
from plumbline.errors import CheckpointError, ConfigError, DataError
from plumbline.kinds.alignment.model import load_dual_encoder
from plumbline.kinds.classification.rows import LabelledRows
from plumbline.kinds.headed.model import Classifier, head_name
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.inputs import build_input
from plumbline.metrics.known import METRICS, figure_name, split_part
from plumbline.models.encoders import Encoded
from plumbline.models.stored import load_model
from plumbline.training.freeze import freeze
from plumbline.training.task import TrainingJob
from tests.kinds import references
from tests.tiny import SEQUENCE, SIZES, SPECTROGRAM, make_cache, picture, write_rows

MakeJob = Callable[..., TrainingJob]
Caches = Callable[[str], TrainingCache]


def batch_of(job: TrainingJob, count: int = 12) -> Batch:
    return job.task.collate([job.train.sample(index, 0) for index in range(count)])


def gradients(job: TrainingJob, batch: Batch) -> dict[str, Tensor]:
    job.model.zero_grad()
    job.task.loss(job.model, batch).total.backward()
    return {n: p.grad.clone() for n, p in job.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "parts"), [("audio", 2), ("features", 2)])
def test_a_head_learns_from_its_own_samples_alone(make_job: MakeJob, name: str, parts: int) -> None:
    """Exactly no gradient reaches a head whose labels are not there."""
    job = make_job(name)
    batch = batch_of(job)
    assert len(batch["labels"]) == parts
    whole = gradients(job, batch)
    for silent in batch["labels"]:
        labels = {
            head: torch.full_like(part, IGNORE_INDEX) if head == silent else part
            for head, part in batch["labels"].items()
        }
        found = gradients(job, batch | {"labels": labels})
        for head in labels:
            name = f"heads.{head_name(head)}"
            for parameter in (f"{name}.weight", f"{name}.bias"):
                expected = whole[parameter] * (head != silent)
                torch.testing.assert_close(found[parameter], expected, rtol=0, atol=0)
                assert whole[parameter].any()
        assert found["encoder.projection.weight"].any()


def test_the_gradients_of_the_heads_add_up_in_the_encoder(make_job: MakeJob) -> None:
    job = make_job("audio")
    batch = batch_of(job)
    whole = gradients(job, batch)["encoder.projection.weight"]
    parts = []
    for head in batch["labels"]:
        labels = {
            other: part if other == head else torch.full_like(part, IGNORE_INDEX)
            for other, part in batch["labels"].items()
        }
        parts.append(gradients(job, batch | {"labels": labels})["encoder.projection.weight"])
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)


def test_what_is_there_once_for_each_part_is_one_sample(make_job: MakeJob, caches: Caches) -> None:
    job, cache = make_job("audio"), caches("clips")
    assert isinstance(job.train, LabelledRows)
    assert len(job.train) == SIZES["train"] < len(cache.rows("train")["audio"])
    batch, rows = batch_of(job, SIZES["train"]), cache.rows("train")
    expected: dict[str, list[int]] = {"digit": [], "speaker": []}
    for number in job.train.numbers:
        for at, part in enumerate(cache.facts["parts"]):
            chosen = rows["label"][(rows["audio"] == number) & (rows["part"] == at)]
            expected[part].append(int(chosen[0]) if len(chosen) else IGNORE_INDEX)
    assert {head: labels.tolist() for head, labels in batch["labels"].items()} == expected
    assert IGNORE_INDEX in expected["speaker"]


def cache_of(folder: Path, rows: Sequence[dict[str, Any]], **splits: Any) -> TrainingCache:
    (folder / "clean").mkdir()
    for split, found in {"train": rows, **splits}.items():
        named = [{"sample_id": f"{split}{at}"} | row for at, row in enumerate(found)]
        write_rows(folder / "clean", split, named)
    cache: TrainingCache = make_cache(folder, {})
    return cache


def test_a_row_counts_as_often_as_it_is_there(tmp_path: Path, make_job: MakeJob) -> None:
    """Repeated rows, as of oversampling, and other labels of the same input are samples."""
    given = [(0, "b"), (1, "a"), (0, "a"), (2, None), (3, "b"), (1, "a"), (1, "a")]
    rows = [{"image": picture(at), "label": label} for at, label in given]
    job = make_job("image", cache=cache_of(tmp_path, rows))
    assert isinstance(job.train, LabelledRows)
    assert job.train.numbers.tolist() == [0, 0, 1, 1, 1, 3]
    assert job.train.labels[:, 0].tolist() == [1, 0, 0, 0, 0, 1]
    assert job.train.rows[:, 0].tolist() == [0, 2, 1, 5, 6, 4]
    assert job.validation is None


def test_class_weights_are_those_of_the_samples_that_train(
    tmp_path: Path, make_job: MakeJob
) -> None:
    """Rows of a class count as often as they are there, and only those with the task's input."""
    rows = [{"image": picture(at), "label": "common"} for at in range(6)]
    rows += [{"image": picture(9), "label": "rare"}] * 3
    rows += [{"text": f"no image {at}", "label": "rare"} for at in range(20)]
    settings = {"class_weights": "balanced"}
    job = make_job("image", cache=cache_of(tmp_path, rows), task=settings)
    batch = batch_of(job, 9)
    counts = np.bincount(batch["labels"][""].numpy())
    assert counts.tolist() == [6, 3]
    weights = 9 / (2 * counts)
    with torch.inference_mode():
        found = job.task.loss(job.model.eval(), batch)
    total, _ = references.classification(job.model, batch, 0.0, {"": weights.tolist()})
    assert found.total.item() == pytest.approx(total, rel=1e-5)


def test_a_part_without_a_sample_of_the_input_gets_no_head(
    tmp_path: Path, make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"part": "seen", "image": picture(at), "label": "ab"[at % 2]} for at in range(4)]
    rows += [{"part": "read", "text": f"text {at}", "label": "cd"[at % 2]} for at in range(4)]
    job = make_job("image", cache=cache_of(tmp_path, rows))
    assert job.spec.classes == {"seen": ["a", "b"]}  # type: ignore[attr-defined]
    assert "part 'read' has no training row with both image and label" in caplog.text


def test_labels_of_another_dataset_are_numbered_as_the_model_has_them(tmp_path: Path) -> None:
    rows = [{"image": picture(at), "label": label} for at, label in enumerate("bcbb")]
    cache = cache_of(tmp_path, rows)
    model = {"": ["a", "b", "c"], "other": ["x", "y"]}
    inputs = build_input(ImageInputConfig(modality="image"), cache, image_size=16)
    read = partial(LabelledRows, cache, "train", inputs, "image", list(model))
    found = read(classes=model).labels
    assert found[:, 0].tolist() == [1, 2, 1, 1]
    assert (found[:, 1] == IGNORE_INDEX).all()
    with pytest.raises(DataError, match="label 'c' of part '' is no class of the model"):
        read(classes=model | {"": ["a", "b"]})


@pytest.mark.parametrize(
    "weights",
    ["balanced", {"pain": [0.5, 2.0, 1.0]}],
)
def test_class_weights_weigh_the_classes(make_job: MakeJob, caches: Caches, weights: Any) -> None:
    job = make_job("features", task={"class_weights": weights, "label_smoothing": 0.1})
    facts = caches("signals").facts["labels"]
    if weights == "balanced":
        of_heads = {part: facts[part]["balanced_weights"] for part in facts}
    else:
        # As `plumbline.losses.class_weights` says: mean 1 over the training samples.
        counts = [facts["pain"]["counts"]["train"][name] for name in facts["pain"]["classes"]]
        mean = np.average(weights["pain"], weights=counts)
        of_heads = {"pain": [w / mean for w in weights["pain"]]}
    batch = batch_of(job)
    with torch.inference_mode():
        found = job.task.loss(job.model.eval(), batch)
    total, count = references.classification(job.model, batch, 0.1, of_heads)
    assert found.total.item() == pytest.approx(total, rel=1e-5)
    assert int(found.count) == count


def test_the_focal_loss_looks_away_from_what_is_known(make_job: MakeJob) -> None:
    plain, focal = (make_job("features", task={"loss": n}) for n in ("cross_entropy", "focal"))
    batch = batch_of(plain)
    with torch.inference_mode():
        one, other = (job.task.loss(job.model.eval(), batch) for job in (plain, focal))
        logits = focal.model(**batch["inputs"])
    assert int(one.count) == int(other.count)
    expected = 0.0
    for head, labels in batch["labels"].items():
        for row, label in zip(logits[head].double(), labels.tolist(), strict=True):
            if label != IGNORE_INDEX:
                share = float(row.softmax(dim=0)[label])
                expected -= (1 - share) ** 2 * math.log(share)
    assert other.total.item() == pytest.approx(expected, rel=1e-5)
    assert other.total < one.total


def test_an_unknown_loss_is_refused_with_the_nearest_name(make_job: MakeJob) -> None:
    with pytest.raises(ValidationError, match="'focall' is unknown; did you mean focal"):
        make_job("features", task={"loss": "focall"})


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        (
            {"num_classes": {"pain": 4}},
            {},
            r"num_classes\.pain = 4, but part 'pain' .* has 3 classes",
        ),
        ({"num_classes": {"pian": 3}}, {}, "part 'pian' of .* has 0 classes"),
        ({}, {"class_weights": {"pian": [1.0]}}, "class_weights has part 'pian', but .* 'pain'"),
        ({}, {"class_weights": {"pain": [1.0, 2.0]}}, "class_weights of part 'pain': "),
    ],
)
def test_settings_that_contradict_the_data_are_refused(
    make_job: MakeJob, model: dict[str, Any], task: dict[str, Any], message: str
) -> None:
    """A class count in conflict names both values."""
    with pytest.raises(ConfigError, match=message):
        make_job("features", model=model, task=task)


def test_a_class_count_that_agrees_is_no_conflict(make_job: MakeJob) -> None:
    """Classes come from the data settings, the heads follow."""
    job = make_job("features", model={"num_classes": {"pain": 3, "stimulus": 2}})
    assert isinstance(job.model, Classifier)
    outputs = {name: head.out_features for name, head in job.model.heads.items()}  # type: ignore[union-attr]
    assert outputs == {"head_pain": 3, "head_stimulus": 2}


def test_declared_classes_reach_the_heads(tmp_path: Path, make_job: MakeJob) -> None:
    """One place says which classes there are and in which order."""
    (tmp_path / "clean").mkdir()
    rows = [{"sample_id": str(i), "image": picture(i), "label": "ab"[i % 2]} for i in range(4)]
    write_rows(tmp_path / "clean", "train", rows)
    job = make_job("image", cache=make_cache(tmp_path, {}, {"classes": {"": ["b", "a"]}}))
    assert job.spec.classes == {"": ["b", "a"]}  # type: ignore[attr-defined]
    assert batch_of(job, 4)["labels"][""].tolist() == [1, 0, 1, 0]


def test_a_dataset_without_labels_is_refused(make_job: MakeJob, caches: Caches) -> None:
    with pytest.raises(DataError, match="this dataset has no labels"):
        make_job("text", cache=caches("text"))


def test_labels_of_another_medium_are_none(make_job: MakeJob, caches: Caches) -> None:
    with pytest.raises(DataError, match="no features with a label in split 'train'"):
        LabelledRows(caches("clips"), "train", None, "features", ["digit"])  # type: ignore[arg-type]


NAMES = ("", "label", "type", "values", "keys", "items", "half", "train", "state_dict", "heads")
NAMES += (
    "a.b",
    "a_b",
    "a__b",
    "_",
    "__",
    "a b",
    "a/b",
    "..",
    "größe",
    "痛み",
    "head_",
    "2e",
    "_2e_",
)


def test_parts_may_be_called_anything() -> None:
    """Each has a head of its own, under a name that modules and TorchScript take."""
    assert len({head_name(part) for part in NAMES}) == len(NAMES)
    assert all(head_name(part).isidentifier() for part in NAMES)

    class Encoder(torch.nn.Module):
        width = 4

        def forward(self, x: Tensor) -> Encoded:
            return Encoded(x, x)

    model = Classifier(Encoder(), {part: at + 1 for at, part in enumerate(NAMES)}, 0.0)  # type: ignore[arg-type]
    x = torch.randn(2, 4)
    outputs = model(x=x)
    assert list(outputs) == list(NAMES)
    for at, part in enumerate(NAMES):
        head = model.heads[head_name(part)]
        assert head.weight.shape == (at + 1, 4)
        expected = x @ head.weight.T + head.bias  # type: ignore[operator]
        torch.testing.assert_close(outputs[part], expected, rtol=1e-6, atol=1e-6)


def test_figures_of_parts_never_meet() -> None:
    figures = [name for name in METRICS if "/" not in name]
    names = [
        figure_name(part, figure) for part in (*NAMES, "mean", "x_top_5") for figure in figures
    ]
    assert len(set(names)) == len(names)
    for part in NAMES:
        assert split_part(figure_name(part, "f1")) == (part, "f1")


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_classifier_may_start_from_the_encoder_of_an_alignment(
    make_job: MakeJob, stored_case: Callable[[str], Path]
) -> None:
    """The images' encoder, its settings and the digests of the start come along."""
    start = stored_case("align_image")
    job = make_job("image", model={"encoder": None}, start=start)
    assert isinstance(job.model, Classifier)
    aligned = load_dual_encoder(start)
    found, expected = weights_of(job.model.encoder), weights_of(aligned.model.image_encoder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert job.spec.model.encoder == aligned.spec.model.image_encoder  # type: ignore[attr-defined]
    assert job.inputs["start/model.safetensors"] == aligned.digests["model.safetensors"]
    freeze(job.model, ["encoder"])
    found = gradients(job, batch_of(job))
    assert set(found) == {"heads.head_.weight", "heads.head_.bias"}


def test_a_classifier_may_start_from_clips_or_from_another_classifier(
    make_job: MakeJob, stored_case: Callable[[str], Path]
) -> None:
    settings = {"inputs": SPECTROGRAM}
    for name in ("align_audio", "audio"):
        start = stored_case(name)
        job = make_job("audio", model={"encoder": None}, task=settings, start=start)
        stored: Any = load_model(start).model
        trained = stored.encoder if name == "audio" else stored.audio_encoder
        assert isinstance(job.model, Classifier)
        assert torch.equal(job.model.encoder.projection.weight, trained.projection.weight)  # type: ignore[arg-type, union-attr]


def test_a_start_without_a_fitting_encoder_is_refused(
    make_job: MakeJob, stored_case: Callable[[str], Path], tmp_path: Path
) -> None:
    none = {"encoder": None}
    with pytest.raises(ConfigError, match=r"model\.encoder is null, but .* holds no model"):
        make_job("image", model=none, start=tmp_path)
    with pytest.raises(CheckpointError, match=r"takes image, but .* is audio"):
        make_job("audio", model=none, start=stored_case("align_image"))
    other = {"inputs": SPECTROGRAM | {"n_mels": 10}}
    with pytest.raises(CheckpointError, match=r"takes 12 channels, but task\.inputs give 10"):
        make_job("audio", model=none, task=other, start=stored_case("align_audio"))
    with pytest.raises(CheckpointError, match="kind causal_lm has no encoder to start from"):
        make_job("text", model=none, start=stored_case("causal_lm_rows"))


@pytest.mark.parametrize("name", ["text", "features"])
def test_validation_figures_are_those_of_the_predictions(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    assert job.validation_task is not None
    assert isinstance(job.validation, LabelledRows)
    figures = job.validation_task.validation_metrics(job.model)
    samples = [job.validation.sample(i, 0) for i in range(len(job.validation))]
    batch = job.validation_task.collate(samples)
    with torch.inference_mode():
        logits = job.model.eval()(**batch["inputs"])
    expected, heads = {}, batch["labels"]
    for head, labels in heads.items():
        known = labels != IGNORE_INDEX
        truth, chosen = labels[known], logits[head].argmax(dim=1)[known]
        f1 = sklearn.metrics.f1_score(truth, chosen, average="macro", zero_division=0)
        expected[figure_name(head, "accuracy")] = float(np.mean((truth == chosen).numpy()))
        expected[figure_name(head, "macro_f1")] = float(f1)
    for mean in ("accuracy", "macro_f1") if len(heads) > 1 else ():
        of_heads = [expected[figure_name(head, mean)] for head in heads]
        expected[f"mean_{mean}"] = float(np.mean(of_heads))
    assert figures == pytest.approx(expected, rel=1e-12)
    assert list(figures) == job.validation_task.metric_names
    assert job.validation_task.known_metrics() == ["loss", *figures]


def test_a_split_of_one_class_has_no_accuracy_to_monitor(tmp_path: Path, make_job: MakeJob) -> None:
    rows = [{"image": picture(at), "label": "ab"[at % 2]} for at in range(4)]
    job = make_job("image", cache=cache_of(tmp_path, rows, val=rows[:1] * 3))
    assert job.validation_task is not None
    assert job.validation_task.known_metrics() == ["loss"]
    assert job.validation_task.validation_metrics(job.model) == {}


def test_a_flat_encoder_takes_no_longer_sequence_than_it_was_built_for(make_job: MakeJob) -> None:
    job = make_job("features", model={"encoder": SEQUENCE | {"max_steps": 8}})
    with pytest.raises(ConfigError, match=r"max_steps = 8: a sequence has 12 steps; raise it"):
        job.task.loss(job.model, batch_of(job))
