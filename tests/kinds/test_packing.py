"""Packed rows are the padded ones: the same losses, gradients and draws, for models that can."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from plumbline.batch import IGNORE_INDEX, Batch, Sample
from plumbline.files import read_digests
from plumbline.kinds.causal_lm.model import CausalLm, CausalLmSpec
from plumbline.kinds.causal_lm.settings import CausalLmTaskConfig
from plumbline.kinds.causal_lm.train import pack_rows as pack_causal
from plumbline.kinds.language.loss import language_loss
from plumbline.kinds.language.packing import Collate
from plumbline.kinds.language.rows import choose_rows
from plumbline.kinds.masked_lm.model import MaskedLm, MaskedLmSpec
from plumbline.kinds.masked_lm.train import pack_rows as pack_masked
from plumbline.kinds.seq2seq.model import Seq2Seq, Seq2SeqSpec
from plumbline.kinds.seq2seq.train import pack_rows as pack_pairs
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.packing import Layout
from plumbline.models.lm_head import LmHead
from plumbline.models.packed import Packing, dense_mask
from plumbline.models.pretrained import NO_ORIGINS
from plumbline.training.processes import Processes
from plumbline.training.task import TrainingJob
from tests.training.together import settings
from tests.training.together import train as train_with

MakeJob = Callable[..., TrainingJob]

CASES = ["causal_lm_rows", "causal_lm_answers", "causal_lm_turns"]
CASES += ["masked_lm_rows", "seq2seq", "vlm", "vlm_turns"]
PACKED = {"vlm": {"rows": "packed", "questions_per_image": None}}
SAMPLES = 12


def drawn(job: TrainingJob) -> list[Sample]:
    """Samples of unequal lengths; images with one to six segments, so that several fit a row."""
    samples = [job.train.sample(index, 3) for index in range(SAMPLES)]
    return [
        {**sample, "segments": sample["segments"][: 1 + at % 6]} if "segments" in sample else sample
        for at, sample in enumerate(samples)
    ]


def losses(job: TrainingJob, collate: Collate) -> tuple[int, Tensor, list[Tensor]]:
    """In float64: count, sum and gradients of a batch of samples of unequal lengths."""
    model = job.model.double().eval()
    batch = collate(drawn(job))
    wide = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    loss = job.task.loss(model, wide)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss.total, parameters, allow_unused=True)
    return int(loss.count), loss.total, [each for each in found if each is not None]


def assert_equal_losses(job: TrainingJob, packed: Collate, padded: Collate) -> None:
    """Up to 1e-6, and 1e-8 of the largest gradient: the softmax runs in float32."""
    (count, total, gradients), expected = losses(job, packed), losses(job, padded)
    assert count == expected[0] > 0
    torch.testing.assert_close(total, expected[1], rtol=1e-6, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    for one, other in zip(gradients, expected[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8 * largest)


@pytest.mark.parametrize("name", CASES)
def test_packed_rows_have_the_loss_and_the_gradients_of_padded_ones(
    make_job: MakeJob, name: str
) -> None:
    job = make_job(name, task=PACKED.get(name, {"rows": "packed"}))
    assert job.validation_task is not None
    assert not job.by_length
    padded = job.validation_task.collate
    samples = drawn(job)
    assert len(job.task.collate(samples)["input_ids"]) < len(padded(samples)["input_ids"]) == 12
    assert_equal_losses(job, job.task.collate, padded)


@pytest.mark.parametrize(
    "name", ["causal_lm_rows", "masked_lm_rows", "seq2seq", "vlm", "vlm_turns"]
)
def test_a_sample_has_exactly_no_influence_on_its_neighbours(make_job: MakeJob, name: str) -> None:
    job = make_job(name, task=PACKED.get(name, {"rows": "packed"}))
    samples = drawn(job)

    def gradient_of(batch: Batch, label: int) -> Tensor:
        """Of one label alone, by the vectors of its tokens: [vocab, width]."""
        model: Any = job.model.eval()
        net = getattr(model, "decoder", None) or getattr(model, "encoder", None) or model.net
        labels = torch.full_like(batch["labels"], IGNORE_INDEX)
        at = (batch["labels"] != IGNORE_INDEX).nonzero()[label]
        labels[tuple(at)] = batch["labels"][tuple(at)]
        vectors = net.get_input_embeddings().weight
        loss = job.task.loss(model, batch | {"labels": labels})
        return torch.autograd.grad(loss.total, vectors)[0]

    assert job.validation_task is not None
    padded = job.validation_task.collate
    labels = {
        sample["index"]: int((padded([sample])["labels"] != IGNORE_INDEX).sum())
        for sample in samples
    }
    packed = job.task.collate(samples[::-1])
    order = packed["sample_index"].tolist()  # in which they lie in their rows
    before = order[: order.index(samples[0]["index"]) + 1]
    last = sum(labels[index] for index in before) - 1
    alone = padded(samples[:1])
    torch.testing.assert_close(
        gradient_of(packed, last), gradient_of(alone, -1), rtol=1e-4, atol=1e-6
    )


def test_what_is_hidden_in_a_sample_does_not_depend_on_packing(make_job: MakeJob) -> None:
    job = make_job("masked_lm_rows", task={"rows": "packed"})
    assert job.validation_task is not None
    samples = [job.train.sample(index, 1) for index in range(SAMPLES)]
    packed, padded = job.task.collate(samples), job.validation_task.collate(samples)
    known = padded["attention_mask"].bool()
    for name in ("input_ids", "labels"):
        assert torch.equal(packed[name][0], padded[name][known])


SMALL = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def gpt2(**options: Any) -> GPT2LMHeadModel:
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**SMALL, **sizes, **dropouts, **options))


def mistral(window: int | None) -> MistralForCausalLM:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return MistralForCausalLM(MistralConfig(**SMALL, **sizes, **heads, sliding_window=window))


def roberta() -> RobertaForMaskedLM:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    others = {"num_attention_heads": 2, "max_position_embeddings": 66, "type_vocab_size": 1}
    return RobertaForMaskedLM(RobertaConfig(**SMALL, **sizes, **others))


def bart() -> BartForConditionalGeneration:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64}
    return BartForConditionalGeneration(BartConfig(**SMALL, **sizes, **heads, **widths))


def t5() -> T5ForConditionalGeneration:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**SMALL, **sizes, dropout_rate=0.0))


class Deaf(Qwen3ForCausalLM):
    """A decoder that is told of samples and does not listen."""

    def forward(self, input_ids: Tensor, **others: Any) -> Any:
        """See them all."""
        return super().forward(input_ids=input_ids, use_cache=False)


def deaf() -> Deaf:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return Deaf(Qwen3Config(**SMALL, **sizes, **heads))


def packed_by(job: TrainingJob, net: PreTrainedModel) -> Collate | None:
    """What makes batches for the model of a job once it is another architecture."""
    model, spec = job.model, job.spec
    padded = (job.validation_task or job.task).collate
    # The tiny tokenizers have fewer ids than these models.
    net.resize_token_embeddings(330)
    if isinstance(model, CausalLm) and isinstance(spec, CausalLmSpec):
        model.decoder, model.lm_head = net, LmHead(net)  # type: ignore[assignment, arg-type]
        return pack_causal(model, spec, padded)
    if isinstance(model, MaskedLm) and isinstance(spec, MaskedLmSpec):
        model.encoder, model.lm_head = net, LmHead(net)  # type: ignore[assignment, arg-type]
        return pack_masked(model, spec, 0)
    assert isinstance(model, Seq2Seq)
    assert isinstance(spec, Seq2SeqSpec)
    model.net, model.lm_head = net, LmHead(net)  # type: ignore[assignment, arg-type]
    return pack_pairs(model, spec, padded)


@pytest.mark.parametrize(
    ("name", "build", "expected"),
    [
        ("causal_lm_rows", gpt2, Packing("argument")),
        ("causal_lm_rows", lambda: mistral(None), Packing("argument")),
        ("causal_lm_rows", lambda: mistral(40), Packing("argument")),
        ("masked_lm_rows", roberta, Packing("argument", first=1)),
        ("seq2seq", bart, Packing("table")),
        ("seq2seq", t5, Packing("relative")),
    ],
)
def test_other_architectures_are_packed_in_the_way_that_they_take(
    make_job: MakeJob, name: str, build: Callable[[], PreTrainedModel], expected: Packing
) -> None:
    job = make_job(name)
    packed = packed_by(job, build())
    assert packed is not None
    model: Any = job.model
    assert model.packing == expected
    assert_equal_losses(job, packed, job.task.collate)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (deaf, "its samples change each other"),
        (lambda: mistral(24), "sliding_window 24 is less than the 40 tokens of a row"),
        (lambda: gpt2(attn_implementation="eager"), "its attention is its own"),
    ],
)
def test_a_model_that_takes_no_packed_rows_is_found_out_and_said_in_one_line(
    make_job: MakeJob,
    caplog: pytest.LogCaptureFixture,
    build: Callable[[], PreTrainedModel],
    reason: str,
) -> None:
    job, net = make_job("causal_lm_rows"), build()
    before = net.config._attn_implementation
    with caplog.at_level(logging.WARNING, "plumbline.models.packed"):
        assert packed_by(job, net) is None
    (line,) = [record.getMessage() for record in caplog.records if "packed" in record.name]
    assert reason in line
    assert "batches of similar length" in line
    assert net.config._attn_implementation == before


def test_rows_that_cannot_be_packed_are_trained_in_buckets_by_length(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("plumbline.models.decoder.Qwen3ForCausalLM", Deaf)

    def trained(rows: str, **loader: object) -> dict[str, str]:
        job = make_job("causal_lm_rows", task={"rows": rows})
        assert job.by_length == (rows == "packed")
        config = settings(batch_size=5)
        train = config.train.model_copy(
            update={"loader": config.train.loader.model_copy(update=loader)}
        )
        train_with(job, config.model_copy(update={"train": train}), Path(rows), Processes())
        # Validation keeps the order of its rows, and with it the last digits of a sum.
        return {
            name: digest
            for name, digest in read_digests(Path(rows)).items()
            if name not in ("config.json", "metrics.json", "val.csv")
        }

    assert trained("packed") == trained("padded", bucket_by_length=True)


@pytest.mark.parametrize(
    ("block", "expected"), [(128, "packed"), (24, "packed"), (10, "stream"), (4, "stream")]
)
def test_rows_of_which_most_would_be_cut_are_one_stream(
    caches: Callable[[str], TrainingCache], block: int, expected: str
) -> None:
    cache = caches("text")
    numbers = cache.rows("train")["text"]
    lengths = cache.text_lengths()[numbers]
    assert (2 * np.minimum(lengths, block).sum() < lengths.sum()) == (expected == "stream")
    config = CausalLmTaskConfig(block_size=block)
    assert choose_rows(cache, config) == expected
    assert choose_rows(cache, config, may_run=False) == "packed"
    assert choose_rows(cache, CausalLmTaskConfig(block_size=block, rows="padded")) == "padded"


def test_trying_leaves_a_model_as_it_was(make_job: MakeJob) -> None:
    padded, packed = (make_job("causal_lm_rows", task={"rows": r}) for r in ("padded", "packed"))
    assert packed.model.training
    for one, other in zip(packed.model.parameters(), padded.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert padded.validation_task is not None
    batch = padded.task.collate([padded.train.sample(index, 0) for index in range(5)])
    with torch.inference_mode():
        one, other = (language_loss(job.model.eval(), batch).total for job in (padded, packed))
    assert torch.equal(one, other)  # padded rows, such as those of validation, to the bit


@pytest.mark.parametrize("streams", [1, 2])
def test_first_fit_gives_every_sample_a_row_with_room(streams: int) -> None:
    draw = np.random.default_rng(streams)
    lengths = draw.integers(1, 40, (50, streams))
    layout = Layout.first_fit(lengths)
    assert sorted(at for row in layout.rows for at in row) == list(range(50))
    sums = np.array([lengths[row].sum(axis=0) for row in layout.rows])
    assert (sums <= lengths.max(axis=0)).all()
    # First-fit decreasing needs at most 11/9 of the fewest rows and one more, for one stream.
    fewest = -(-lengths.sum(axis=0).max() // lengths.max())
    assert streams == 2 or len(layout.rows) <= 11 / 9 * fewest + 1


def test_rows_of_known_lengths_are_laid_out_as_by_hand() -> None:
    layout = Layout.first_fit(np.array([[2], [5], [3]]))
    assert layout.rows == [[1], [2, 0]]
    parts = [np.array([7, 8]), np.arange(5), np.array([4, 5, 6])]
    assert layout.join(parts, -1).tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert layout.positions([2, 5, 3]).tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert layout.spans([2, 5, 3], [1, 6, 4]).tolist() == [[[[5, 6], [0, 0]]], [[[3, 4], [2, 1]]]]


def test_a_dense_mask_agrees_with_its_definition() -> None:
    spans = Layout([[0, 1]]).spans([2, 3], [1, 2])
    mask = dense_mask(spans, 6, 4, causal=False)[0, 0]
    expected = [[1, 0, 0, 0]] * 2 + [[0, 1, 1, 0]] * 3 + [[0, 0, 0, 1]]
    assert mask.tolist() == [[bool(seen) for seen in row] for row in expected]
    own = dense_mask(Layout([[0, 1]]).spans([1, 2], [1, 2]), 3, 3, causal=True)[0, 0]
    assert own.int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_attention_is_a_module_of_the_model_that_is_asked(make_job: MakeJob) -> None:
    """Of a packed job alone: another model of the same class keeps its attention."""
    packed = make_job("causal_lm_rows", task={"rows": "packed"})
    found = [
        {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")}
        for model in (packed.model, packed.spec.build(NO_ORIGINS))
    ]
    assert found == [{"plumbline_packed"}, {"sdpa"}]
