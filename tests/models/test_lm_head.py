"""Logits are made where labels are, in chunks, and say what all of them at once say."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import IGNORE_INDEX, LossSum, labelled_places
from plumbline.kinds.vlm.model import Vlm
from plumbline.losses.language import token_cross_entropy
from plumbline.models import lm_head
from plumbline.training.task import TrainingJob
from tests.tiny import CASES
from tests.training.together import exact

LANGUAGE = [
    name
    for name, case in CASES.items()
    if case.kind in ("causal_lm", "masked_lm", "seq2seq", "vlm")
]


def loss_and_gradients(job: TrainingJob) -> tuple[LossSum, dict[str, Tensor]]:
    batch = job.task.collate([job.train.sample(index, 0) for index in range(6)])
    job.model.eval().zero_grad()
    loss = job.task.loss(job.model, batch)
    loss.total.backward()
    return loss, {n: p.grad for n, p in job.model.named_parameters() if p.grad is not None}


def places(labels: Tensor) -> Tensor | None:
    return labelled_places(labels).get("labelled")


def all_logits(job: TrainingJob) -> tuple[LossSum, dict[str, Tensor]]:
    """The loss over the logits of all positions at once."""
    batch = job.task.collate([job.train.sample(index, 0) for index in range(6)])
    model = job.model.eval()
    model.zero_grad()
    if isinstance(model, Vlm):
        features = batch.get("image_features")
        if features is None:
            features = model.image_encoder(batch["pixel_values"]).tokens
        text = ("input_ids", "position_ids", "mask", "image_places")
        hidden = model.hidden_states(features, *(batch.get(name) for name in text))
        logits, labels = model.decoder.lm_head(hidden), batch["labels"]
        if "image_places" not in batch:  # labels of conversations are shifted already
            logits, labels = logits[:, :-1], labels[:, 1:]
    else:
        logits, labels = model(**batch), batch["labels"]
    smoothing = 0.1 if type(model).__name__ == "Seq2Seq" else 0.0
    loss = token_cross_entropy(logits, labels, label_smoothing=smoothing)
    loss.total.backward()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", LANGUAGE)
@pytest.mark.parametrize("rows", [None, 7, 1])
def test_chunks_of_labelled_logits_equal_all_logits_in_float64(
    make_job: Callable[..., TrainingJob],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    rows: int | None,
) -> None:
    job = exact(make_job(name))
    if rows:
        monkeypatch.setattr(lm_head, "rows_of", lambda weight: rows)
    loss, gradients = loss_and_gradients(job)
    whole, expected = all_logits(job)
    assert int(loss.count) == int(whole.count) > 7
    # The loss itself rounds to float32, as its softmax does.
    torch.testing.assert_close(loss.total, whole.total, rtol=1e-6, atol=0)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-6, atol=1e-7)


class Capped(nn.Module):
    """A model that does something to its logits behind its last map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.map = nn.Embedding(11, 4), nn.Linear(4, 11)

    def get_output_embeddings(self) -> nn.Module:
        return self.map

    def forward(self, ids: Tensor) -> Tensor:
        return 2 * torch.tanh(self.map(self.embedding(ids)) / 2)


def test_a_model_that_caps_its_logits_is_not_chunked_and_keeps_its_caps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lm_head, "rows_of", lambda weight: 2)
    net = Capped()
    head = lm_head.LmHead(net)
    ids = torch.arange(10).view(2, 5)
    labels = ids.clone()
    labels[0, :3] = IGNORE_INDEX
    for _ in range(2):
        (found,) = head.over_labels(
            lambda: net(ids), labels, places(labels), lambda found, _: found
        )
        torch.testing.assert_close(found, net(ids)[labels != IGNORE_INDEX], rtol=0, atol=0)
    assert [record.message[:32] for record in caplog.records] == [
        "this model scales, caps or shift"
    ]


def test_a_position_without_a_label_costs_no_logits() -> None:
    net = Capped()
    seen: list[torch.Size] = []
    net.map.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    labels = torch.full((2, 5), IGNORE_INDEX)
    labels[1, 2:4] = 1
    head, ids = lm_head.LmHead(net), labels.clamp(min=0)
    head.over_labels(lambda: net(ids), labels, places(labels), lambda *_: None)
    assert seen == [torch.Size([2, 11])]
    assert not net.map._forward_pre_hooks


def test_a_call_that_fails_leaves_the_map_as_it_was() -> None:
    net = Capped()

    def fail() -> Tensor:
        raise RuntimeError("no")

    labels = torch.ones(2, 5, dtype=torch.long)
    with pytest.raises(RuntimeError, match="no"):
        lm_head.LmHead(net).over_labels(fail, labels, None, lambda *_: None)
    assert not net.map._forward_pre_hooks


class Uncapped(Capped):
    """The same without what is behind the map."""

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.map(self.embedding(ids))
        return logits


@pytest.mark.parametrize("kind", [Capped, Uncapped])
def test_a_settled_head_gives_the_same_loss_and_lets_other_calls_see_all(
    monkeypatch: pytest.MonkeyPatch, kind: type[Capped]
) -> None:
    monkeypatch.setattr(lm_head, "rows_of", lambda weight: 2)
    net, ids = kind(), torch.arange(10).view(2, 5)
    labels = ids.clone()
    labels[0, :3] = IGNORE_INDEX
    given = labels, places(labels)
    logits = net(ids)
    plain = lm_head.LmHead(net).loss(lambda: net(ids), *given, token_cross_entropy)
    head = lm_head.LmHead(net)
    head.settle(lambda: net(ids), *given)
    hooks = len(net.map._forward_pre_hooks)
    copied, copied_head = copy.deepcopy((net, head))
    for model, of_model in ((net, head), (copied, copied_head)):
        found = of_model.loss(lambda model=model: model(ids), *given, token_cross_entropy)
        assert torch.equal(found.total, plain.total)
        assert torch.equal(model(ids), logits)
        assert len(model.map._forward_pre_hooks) == hooks == 1  # there before a program is made
    assert head._is_last == (kind is Uncapped)


def test_a_settled_head_is_as_it_was_after_a_call_that_fails() -> None:
    net, ids = Uncapped(), torch.arange(10).view(2, 5)
    head = lm_head.LmHead(net)
    head.settle(lambda: net(ids), ids, None)

    def fail() -> Tensor:
        net(ids)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        head.over_labels(fail, ids, torch.tensor([3]), lambda *_: None)
    assert net(ids).shape == (2, 5, 11)


class Wrapped(nn.Module):
    """A map of another class, such as one with an adapter."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.inner(states)
        return logits


def gradients(
    head: nn.Module, hidden: Tensor, labels: Tensor, scale: float = 1.0
) -> tuple[Tensor, list[Tensor | None]]:
    leaf = hidden.clone().requires_grad_()
    head.zero_grad()
    loss = lm_head.chunked_loss(head, leaf, labels, token_cross_entropy)
    assert int(loss.count) == len(labels)
    (scale * loss.total).backward()
    return loss.total.detach(), [leaf.grad, *(p.grad for p in head.parameters())]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [
        (torch.float64, None, 1e-6),
        (torch.float32, None, 1e-5),
        (torch.bfloat16, None, 2e-2),
        (torch.float32, torch.bfloat16, 2e-2),
        (torch.float32, torch.float16, 2e-3),
    ],
)
def test_chunks_have_the_gradients_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
    bias: bool,
    frozen: bool,
    wrapped: bool,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    tolerance: float,
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 50, bias=bias, dtype=dtype).requires_grad_(not frozen)
    head = Wrapped(linear) if wrapped else linear
    hidden, labels = torch.randn(29, 16, dtype=dtype), torch.randint(0, 50, (29,))
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        whole, expected = gradients(head, hidden, labels, scale=0.25)
        monkeypatch.setattr(lm_head, "rows_of", lambda weight: 8)
        total, found = gradients(head, hidden, labels, scale=0.25)
    torch.testing.assert_close(total, whole, rtol=tolerance, atol=0)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.dtype == theirs.dtype == dtype
            largest = float(theirs.abs().max())
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * largest)


def test_a_head_that_is_called_without_gradients_makes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lm_head, "rows_of", lambda weight: 8)
    head = nn.Linear(16, 50)
    with torch.inference_mode():
        hidden, labels = torch.randn(29, 16), torch.randint(0, 50, (29,))
        loss = lm_head.chunked_loss(head, hidden, labels, token_cross_entropy)
        whole = token_cross_entropy(head(hidden), labels)
    torch.testing.assert_close(loss.total, whole.total, rtol=1e-6, atol=0)
    assert not loss.total.requires_grad
