"""What every kind of task keeps to, whatever it learns: one contract, checked for all of them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import IGNORE_INDEX, Batch, Deferred, LossSum, Sample
from plumbline.kinds.alignment.train import embed
from plumbline.loading.loader import GatheringSource, Loader, SampleSource
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.device import to_device
from plumbline.training.task import TrainingJob
from plumbline.training.window import Gradients, WindowSums
from tests.kinds import references
from tests.tiny import CASES
from tests.training.together import ALONE, exact

CPU = torch.device("cpu")
MakeJob = Callable[..., TrainingJob]

STEPS = defaultdict(lambda: 3e-3, alignment=1e-4)
"""Kind -> step of finite differences, along a direction of about length 1.

Losses of tokens, classes and numbers round to float32; those of pairs do not, and bend more.
"""

ALL = pytest.mark.parametrize("name", list(CASES))
ADDITIVE = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.additive])


def samples(source: SampleSource | None, count: int = 6, epoch: int = 0) -> list[Sample]:
    assert source is not None
    return [source.sample(index, epoch) for index in range(min(count, len(source)))]


def last_samples(source: SampleSource | None, count: int = 3) -> list[Sample]:
    """The end of a split, where blocks of a stream are cut short."""
    assert source is not None
    return [source.sample(index, 0) for index in range(len(source) - count, len(source))]


def silence(batch: Batch, keep: Sequence[int] = ()) -> Batch:
    """The batch without the labels of all samples but those to keep."""
    drop = [i for i in range(len(batch["sample_index"])) if i not in keep]

    def without(labels: Tensor) -> Tensor:
        labels = labels.clone()
        labels[drop] = float("nan") if labels.is_floating_point() else IGNORE_INDEX
        return labels

    if "targets" in batch:
        return batch | {"targets": without(batch["targets"])}
    labels = batch["labels"]
    if isinstance(labels, Mapping):
        return batch | {"labels": {head: without(part) for head, part in labels.items()}}
    return batch | {"labels": without(labels)}


def figures(loss: LossSum) -> tuple[float, int]:
    return loss.total.item(), int(loss.count)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        missing = {"equal_nan": True} if one.is_floating_point() else {}
        return bool(np.array_equal(one.numpy(), other.numpy(), **missing))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def trees(batch: Any) -> list[Tensor]:
    """All tensors of a batch."""
    if isinstance(batch, Tensor):
        return [batch]
    return [t for v in batch.values() for t in trees(v)] if isinstance(batch, Mapping) else []


@ADDITIVE
def test_padding_changes_nothing(make_job: MakeJob, name: str) -> None:
    """The loss of a sample is the same alone and beside longer neighbours."""
    job = make_job(name)
    model, task = job.model.train(), job.validation_task or job.task
    together = samples(job.validation, 4) + last_samples(job.validation)
    batch = task.collate(together)
    for place, sample in enumerate(together):
        alone = task.collate([sample])
        with torch.no_grad():
            expected = figures(task.loss(model, alone))
            found = figures(task.loss(model, silence(batch, [place])))
        assert found[1] == expected[1] > 0
        assert found[0] == pytest.approx(expected[0], rel=1e-5), place


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.additive])
def test_padding_changes_no_embedding(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    together = samples(job.train)
    with torch.no_grad():
        whole = embed(job.model, job.task.collate(together))
        for place, sample in enumerate(together):
            alone = embed(job.model, job.task.collate([sample]))
            for side in ("media", "texts"):
                torch.testing.assert_close(whole[side][place], alone[side][0], rtol=1e-5, atol=1e-6)


def accumulate(job: TrainingJob, window: list[Batch]) -> tuple[WindowSums, dict[str, Tensor]]:
    job.model.train().zero_grad()
    scaler = torch.GradScaler("cpu", enabled=False)
    once = Gradients(job.model, job.task, ALONE, scaler)
    sums = once.accumulate(window, range(len(window)))
    return sums, {
        name: parameter.grad.clone()
        for name, parameter in job.model.named_parameters()
        if parameter.grad is not None
    }


@ALL
def test_micro_batches_equal_their_batch(make_job: MakeJob, name: str) -> None:
    """Sums, counts and gradients of a window do not depend on how it is cut."""
    job = make_job(name)
    chosen = samples(job.train, 10)
    whole, expected = accumulate(job, [job.task.collate(chosen)])
    cuts = [(0, 4), (4, 9), (9, 10)]
    cut, found = accumulate(job, [job.task.collate(chosen[a:b]) for a, b in cuts])
    assert cut.count == whole.count > 0
    assert cut.total == pytest.approx(whole.total, rel=1e-5)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        limit = 1e-5 * float(gradient.abs().max()) + 1e-5
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=limit)


@ALL
def test_the_order_of_the_samples_changes_nothing(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    chosen = samples(job.train)
    one, other = (job.task.collate(order) for order in (chosen, chosen[::-1]))
    with torch.no_grad():
        expected, found = (figures(job.task.loss(job.model, batch)) for batch in (one, other))
    assert found[1] == expected[1]
    assert found[0] == pytest.approx(expected[0], rel=1e-5)


@ALL
def test_gradients_are_the_slopes_of_the_loss(make_job: MakeJob, name: str) -> None:
    """By central differences, along a direction drawn around the gradient."""
    job = exact(make_job(name))
    parameters = [p for p in job.model.eval().parameters() if p.requires_grad]
    batch = job.task.collate(samples(job.train))
    total = job.task.loss(job.model, batch).total
    gradients = torch.autograd.grad(total, parameters, materialize_grads=True)
    draw = torch.Generator().manual_seed(0)
    weights = [0.5 + torch.rand(g.shape, generator=draw, dtype=torch.float64) for g in gradients]
    length = float(sum(g.square().sum() for g in gradients)) ** 0.5
    direction = [w * g / length for w, g in zip(weights, gradients, strict=True)]

    @torch.no_grad()
    def moved(step: float) -> float:
        for parameter, along in zip(parameters, direction, strict=True):
            parameter.add_(along, alpha=step)
        return job.task.loss(job.model, batch).total.item()

    step = STEPS[CASES[name].kind]
    above, below = moved(step), moved(-2 * step)
    slope = float(sum((d * g).sum() for d, g in zip(direction, gradients, strict=True)))
    assert (above - below) / (2 * step) == pytest.approx(slope, rel=2e-3)


def reference(name: str, model: nn.Module, batch: Batch) -> tuple[float, int]:
    case = CASES[name]
    if case.kind == "alignment":
        loss = case.task.get("loss", "info_nce")
        return references.alignment(model, batch, loss, case.task.get("widths"))
    if case.kind == "seq2seq":
        return references.language(model, batch, smoothing=0.1)
    by_kind: dict[str, Callable[[Any, Batch], tuple[float, int]]] = {
        "vlm": references.vlm,
        "causal_lm": references.language,
        "masked_lm": references.language,
        "classification": references.classification,
        "regression": references.regression,
    }
    return by_kind[case.kind](model, batch)


@ALL
def test_the_loss_is_the_one_written_out_by_hand(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    model = job.model.eval()
    for batch in (job.task.collate(samples(job.train)), job.task.collate(samples(job.train, 1))):
        with torch.inference_mode():
            total, count = figures(job.task.loss(model, batch))
        expected = reference(name, model, batch)
        assert count == expected[1] > 0
        assert total == pytest.approx(expected[0], rel=1e-6, abs=1e-6)


@ADDITIVE
def test_a_batch_of_ignored_labels_costs_nothing_and_teaches_nothing(
    make_job: MakeJob, name: str
) -> None:
    """No label is neither NaN nor a gradient."""
    job = make_job(name)
    batch = silence(job.task.collate(samples(job.train)))
    loss = job.task.loss(job.model.train(), batch)
    assert figures(loss) == (0.0, 0)
    loss.total.backward()
    for parameter in job.model.parameters():
        assert parameter.grad is None or not parameter.grad.any()


@ALL
def test_training_batches_depend_on_seed_epoch_and_place_alone(
    make_job: MakeJob, name: str
) -> None:
    """For any number of workers, in another run, and from the middle of an epoch on."""

    def batches(workers: int, epoch: int, start: int = 0, seed: int = 0) -> list[Batch]:
        job = make_job(name, seed=seed)
        config = LoaderConfig(batch_size=5, workers=workers)
        loader = Loader(job.train, job.task.collate, config, seed=seed, shuffle=True)
        return list(loader.batches(epoch, start))

    alone = batches(0, epoch=1)
    torch.manual_seed(77)
    np.random.seed(77)  # noqa: NPY002 (what must not matter)
    workers = batches(2, epoch=1)
    assert len(alone) == len(workers) > 3
    assert all(same(a, b) for a, b in zip(alone, workers, strict=True))
    assert all(same(a, b) for a, b in zip(alone[2:], batches(0, epoch=1, start=2), strict=True))
    for other in (batches(0, epoch=2), batches(0, epoch=1, seed=1)):
        assert not same(alone[0], other[0])


@ALL
def test_what_is_left_to_the_device_becomes_the_batch_there(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    for task, source in ((job.task, job.train), (job.validation_task, job.validation)):
        assert task is not None
        chosen = samples(source)
        whole, raw = task.collate(chosen), task.collate_for(torch.device("cuda"))(chosen)
        found = to_device(raw, CPU)
        assert same(found, whole)
        for one, other in zip(trees(found), trees(whole), strict=True):
            assert one.stride() == other.stride()
            assert np.array_equal(one.isfinite(), other.isfinite())
        pixels = [
            tensor for tensor in trees(whole) if tensor.ndim == 4 and tensor.is_floating_point()
        ]
        deferred = [value for value in leaves(raw) if isinstance(value, Deferred)]
        assert len(deferred) == len(pixels)
        assert all(raw.pixels.dtype == torch.uint8 for raw in deferred)


def leaves(batch: Any) -> list[Any]:
    """All values of a batch."""
    return (
        [v for each in batch.values() for v in leaves(each)] if isinstance(batch, dict) else [batch]
    )


@ALL
def test_samples_that_are_read_at_once_are_those_read_one_by_one(
    make_job: MakeJob, name: str
) -> None:
    job = make_job(name)
    if not isinstance(job.train, GatheringSource):
        pytest.skip("its samples come one by one")
    chosen = np.array([3, 0, 5, 3])
    together = job.train.samples(chosen, 2)
    one_by_one = [job.train.sample(int(index), 2) for index in chosen]
    assert np.array_equal(together.columns["index"], chosen)
    assert same(job.task.collate(together), job.task.collate(one_by_one))
    assert same(job.task.collate(together[1:3]), job.task.collate(one_by_one[1:3]))
    for found, expected in zip(together, one_by_one, strict=True):
        assert found.keys() <= expected.keys()  # what a batch is made of, which may be less
        for key, value in found.items():
            np.testing.assert_array_equal(value, expected[key])


@ALL
def test_samples_keep_their_number_and_evaluation_its_order(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    task = job.validation_task or job.task
    assert job.validation is not None
    config = LoaderConfig(batch_size=3)
    loader = Loader(job.validation, task.collate, config, seed=0, shuffle=False)
    first, again = list(loader.batches(0)), list(loader.batches(0))
    numbers = [int(i) for batch in first for i in batch["sample_index"]]
    assert numbers == list(range(len(job.validation)))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    shuffled = Loader(job.train, job.task.collate, config, seed=0, shuffle=True)
    order = [int(i) for batch in shuffled.batches(3) for i in batch["sample_index"]]
    assert sorted(order) == list(range(len(job.train))) != order


LAST_NORM = {f"image_encoder.vit.encoder.ln.{part}" for part in ("weight", "bias")}
UNUSED = defaultdict(set, {"alignment": {"logit_bias"}, "vlm": LAST_NORM})
"""What the losses of a kind leave out: InfoNCE the bias; a decoder what follows the tokens."""


@ALL
def test_a_batch_is_finite_and_every_parameter_learns(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    batch = job.task.collate(samples(job.train, 12))
    targets = {id(t) for t in trees({"targets": batch.get("targets", {})})}
    for tensor in trees(batch):
        assert id(tensor) in targets or tensor.isfinite().all()
    _, gradients = accumulate(job, [batch])
    silent = [n for n, p in job.model.named_parameters() if n not in gradients and p.requires_grad]
    assert set(silent) <= UNUSED[CASES[name].kind], silent
    assert all(gradient.isfinite().all() for gradient in gradients.values())


SIZED = [name for name in CASES if name not in ("vlm", "causal_lm_stream", "masked_lm_stream")]


@pytest.mark.parametrize("name", SIZED)
def test_samples_of_similar_length_can_be_put_together(make_job: MakeJob, name: str) -> None:
    job = make_job(name)
    config = LoaderConfig(batch_size=4, bucket_by_length=True)
    loader = Loader(job.train, job.task.collate, config, seed=0, shuffle=True)
    seen = [int(i) for batch in loader.batches(1) for i in batch["sample_index"]]
    assert sorted(seen) == list(range(len(job.train)))


@ALL
def test_forty_steps_halve_the_loss_of_twelve_samples(make_job: MakeJob, name: str) -> None:
    """Whatever the kind, through the window as the trainer takes it."""
    job = make_job(name)
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=0.01)
    window = [job.task.collate(samples(job.train, 12)[at : at + 6]) for at in (0, 6)]
    losses = []
    for _ in range(40):
        sums, _ = accumulate(job, window)
        losses.append(sums.total / sums.count)
        for parameter in job.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= sums.count
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


CUT = {
    "question": ("vlm", "max_text_tokens", 0),
    "answer": ("vlm", "max_text_tokens", 0),
    "caption": ("align_image", "max_text_tokens", 0),
    "source": ("seq2seq", "max_source_tokens", 0),
    "target": ("seq2seq", "max_target_tokens", 0),
    "text": ("causal_lm_rows", "block_size", 1),
}
"""Column that is cut -> case, the limit, and how many tokens of it frame the text."""


@pytest.mark.parametrize("column", CUT)
def test_what_is_cut_is_counted_and_said(
    make_job: MakeJob, caches: Any, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    name, setting, frame = CUT[column]
    cache = caches(CASES[name].data)
    numbers = cache.rows("train")[column]
    lengths = cache.text_lengths()[numbers[numbers >= 0]]
    limit = max(int(lengths.max()) - 1, 2)
    count = int((lengths > limit).sum())
    assert 0 < count < len(lengths)
    what = "rows with what frames them" if frame else f"{column}s"
    line = f"{count} of {len(lengths)} {what} of split train are longer than task.{setting} = "
    make_job(name, task={setting: limit + frame})
    assert sum(line + f"{limit + frame} and are cut" in said for said in caplog.messages) == 1
    caplog.clear()
    make_job(name, task={setting: int(lengths.max()) + frame})
    assert not [said for said in caplog.messages if f" {what} of split train" in said]


@pytest.mark.parametrize(
    ("name", "inputs", "limit"),
    [
        ("text", {"modality": "text"}, "max_tokens"),
        ("features", {"modality": "features"}, "max_steps"),
    ],
)
def test_inputs_that_are_cut_are_counted_and_said(
    make_job: MakeJob,
    caches: Any,
    caplog: pytest.LogCaptureFixture,
    name: str,
    inputs: dict[str, Any],
    limit: str,
) -> None:
    """Of a classifier every sample counts, as often as it is there."""
    cache, numbers = caches(CASES[name].data), make_job(name).train.numbers  # type: ignore[attr-defined]
    lengths = (cache.text_lengths() if name == "text" else cache.lengths("features"))[numbers]
    most = int(lengths.max()) - 1
    caplog.clear()
    make_job(name, task={"inputs": inputs | {limit: most}})
    line = f"of split train are longer than inputs.{limit} = {most} and are cut"
    said = [message for message in caplog.messages if line in message]
    assert len(said) == 1
    assert f": {(lengths > most).sum()} of {len(lengths)} " in said[0]
