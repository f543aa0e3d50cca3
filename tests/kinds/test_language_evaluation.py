"""Figures and continuations of language models, beside loops that are written out."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from plumbline.batch import IGNORE_INDEX
from plumbline.errors import DataError
from plumbline.evaluation.result import (
    Evaluation,
    EvaluationJob,
    settle,
    write_evaluation,
)
from plumbline.files import read_json, write_json
from plumbline.kind import KINDS
from plumbline.kinds.causal_lm.model import CausalLm, CausalLmSpec
from plumbline.kinds.causal_lm.sampling import continue_text
from plumbline.kinds.language.evaluate import unigram_entropy
from plumbline.kinds.language.settings import LanguageEvaluationConfig, SamplingConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import Stored, load_as, load_model
from plumbline.training.task import TrainingJob
from tests.tiny import CASES

CPU = torch.device("cpu")
Caches = Callable[[str], TrainingCache]
Folders = Callable[[str], Path]


def evaluate(name: str, caches: Caches, stored_case: Folders, **settings: Any) -> Evaluation:
    stored = load_model(stored_case(name))
    config = LanguageEvaluationConfig(**settings)
    job = EvaluationJob(stored, caches(CASES[name].data), config, CPU)
    result: Evaluation = KINDS[CASES[name].kind].role("evaluate").evaluate(job)
    return result


NAMES = ["causal_lm_stream", "causal_lm_rows", "causal_lm_answers", "causal_lm_turns"]
NAMES += ["masked_lm_rows"]


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_of_samples_scored_one_by_one(
    make_job: Callable[..., TrainingJob], caches: Caches, stored_case: Folders, name: str
) -> None:
    result = evaluate(name, caches, stored_case, split="val")
    job = make_job(name)
    assert job.validation is not None
    model = load_model(stored_case(name)).model
    total, hits, labels = 0.0, 0, Counter[int]()
    for index in range(len(job.validation)):
        batch = job.task.collate([job.validation.sample(index, 0)])
        with torch.inference_mode():
            scores = model(**batch)[0].double().log_softmax(dim=-1)
        for row, label in zip(scores, batch["labels"][0].tolist(), strict=True):
            if label != IGNORE_INDEX:
                total -= float(row[label])
                hits += int(row.argmax()) == label
                labels[label] += 1
    count = labels.total()
    assert result.metrics["tokens"] == count
    assert result.metrics["loss"] == pytest.approx(total / count, rel=1e-6)
    assert result.metrics["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert result.metrics["token_accuracy"] == pytest.approx(hits / count, rel=1e-12)
    # Random weights know less than the frequencies of tokens.
    assert 0 < result.metrics["unigram_loss"] < result.metrics["loss"]


@pytest.mark.parametrize("name", ["causal_lm_stream", "masked_lm_rows"])
def test_the_baseline_takes_the_frequencies_of_training(
    caches: Caches, stored_case: Folders, name: str
) -> None:
    """Of a stream all tokens but the first, of hidden ones those that are left to see."""
    stored: Any = load_model(stored_case(name))
    cache, train = caches("text"), KINDS[CASES[name].kind].role("train")
    counts: dict[str, Counter[int]] = {}
    for split in ("train", "val"):
        rows = train.open_rows(cache, split, stored.spec, seed=0, training=False)
        counts[split] = Counter()
        for index in range(len(rows)):
            if name == "causal_lm_stream":
                counts[split].update(rows.sample(index, 0)["ids"][1:].tolist())
                continue
            batch = train.bind_collate(stored.spec, 0)([rows.sample(index, 0)])
            ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
            seen = [token for token in ids if token != stored.spec.mask_id]
            asked = [label for label in labels if label != IGNORE_INDEX]
            counts[split].update(seen if split == "train" else asked)
    seen_once = [token for token in counts["val"] if token not in counts["train"]]
    frequencies = counts["train"] + Counter(seen_once)
    nats = [-math.log(frequencies[t] / frequencies.total()) for t in counts["val"].elements()]
    found = evaluate(name, caches, stored_case, split="val").metrics["unigram_loss"]
    assert found == pytest.approx(sum(nats) / len(nats), rel=1e-9)


def test_a_diverged_model_is_measured_to_the_end(
    caches: Caches, stored_case: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its perplexity is no float: the figure is left out with the reason, all else is written."""
    stored: Any = load_as(stored_case("causal_lm_stream"), CausalLmSpec)
    with torch.no_grad():
        stored.model.decoder.get_output_embeddings().weight.mul_(1e5)
    job = EvaluationJob(stored, caches("text"), LanguageEvaluationConfig(), CPU)
    metrics, result = settle(KINDS["causal_lm"].role("evaluate").evaluate(job))
    assert metrics["loss"] > 710
    assert "perplexity" not in metrics
    assert result.details["left_out"]["perplexity"].startswith("the loss is so high")
    assert "perplexity is left out: the loss is so high" in caplog.text
    write_evaluation(result, tmp_path)
    write_json(tmp_path / "metrics.json", metrics)
    assert read_json(tmp_path / "metrics.json") == metrics


def test_what_is_not_finite_is_left_out_whoever_measured_it() -> None:
    """A file of figures holds finite numbers alone."""
    figures = {"a/r2": None, "f2": math.nan, "loss": math.inf, "mae": 1.5, "new": None}
    metrics, result = settle(Evaluation(figures, []))
    assert metrics == result.metrics == {"mae": 1.5}
    assert result.details["left_out"] == {
        "a/r2": "all values are equal",
        "f2": "it is no finite number",
        "loss": "it is no finite number",
        "new": "it is no finite number",
    }


def test_the_baseline_is_the_cross_entropy_under_the_frequencies_of_training() -> None:
    train, labels = Counter({5: 6, 6: 2}), Counter({5: 3, 6: 1})
    expected = -(3 * math.log(6 / 8) + math.log(2 / 8)) / 4
    assert unigram_entropy(train, labels) == pytest.approx(expected, rel=1e-12)
    unseen = unigram_entropy(train, Counter({9: 2}))
    assert unseen == pytest.approx(math.log(9), rel=1e-12)
    assert unigram_entropy(train, Counter()) == 0.0


Lm = Stored[CausalLm, CausalLmSpec]


@pytest.fixture(scope="module")
def open_lm(stored_case: Folders) -> Callable[[str], Lm]:
    """Opens a stored causal model, with weights so large that it has something to say."""

    def open_model(name: str) -> Lm:
        stored: Any = load_as(stored_case(name), CausalLmSpec)
        with torch.no_grad():
            for parameter in stored.model.decoder.model.layers.parameters():
                parameter.mul_(15 if parameter.ndim == 2 else 1)
        opened: Lm = stored
        return opened

    return open_model


def say(lm: Lm, prompt: str = "to be ", **settings: Any) -> str:
    config = SamplingConfig(**({"max_new_tokens": 30} | settings))
    return continue_text(lm.model, lm.spec, lm.text, prompt, config).text


@torch.inference_mode()
def greedy(lm: Lm, ids: list[int], limit: int) -> list[int]:
    """The likeliest token again and again, without a cache."""
    added: list[int] = []
    while len(added) < limit:
        token = int(lm.model(input_ids=torch.tensor([ids + added]))[0, -1].argmax())
        if token == lm.spec.special_ids.eos:
            break
        added.append(token)
    return added


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


FRAMES: dict[str, tuple[list[int], list[int]]] = {
    "causal_lm_stream": ([], []),
    "causal_lm_rows": ([1], []),
    "causal_lm_answers": ([], [1]),
    "causal_lm_turns": ([6], [8, 7]),  # <|user|>; <|end|><|assistant|>
}
"""Case -> what stands before and behind a prompt, as in training."""


@pytest.mark.parametrize("name", FRAMES)
def test_temperature_0_says_the_likeliest_token_again_and_again(
    open_lm: Callable[[str], Lm], name: str
) -> None:
    """Also the only token to choose from."""
    lm, (before, behind) = open_lm(name), FRAMES[name]
    for prompt in ("to be ", "q", "is the not"):
        ids = [*before, *encode(lm.text, prompt), *behind]
        expected = lm.text.decode(greedy(lm, ids, 30))
        assert say(lm, prompt, temperature=0.0) == expected
        assert say(lm, prompt, top_k=1, seed=9) == expected
        assert say(lm, prompt, top_p=1e-6, seed=9) == expected


def test_equal_seeds_say_equal_texts(open_lm: Callable[[str], Lm]) -> None:
    """Whatever the state of the global generator, which stays as it was."""
    lm = open_lm("causal_lm_stream")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    said = [say(lm, seed=seed) for seed in (4, 4, 5)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert said[0] == said[1] == say(lm, seed=4) != said[2]
    assert say(lm, seed=4, temperature=0.0) == say(lm, seed=5, temperature=0.0)


def kept(shares: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Shares in falling order, of the likeliest tokens alone, to the one that reaches `top_p`."""
    before = shares.cumsum(dim=0) - shares
    left = shares.where((before < top_p) & (torch.arange(len(shares)) < (top_k or len(shares))), 0)
    return left / left.sum()


COLD = 0.05
"""A temperature at which tokens that are nearly as likely are told apart."""


@pytest.mark.parametrize("limits", [{"top_k": 3}, {"top_p": 0.4}], ids=str)
@torch.inference_mode()
def test_only_the_likeliest_tokens_are_drawn_each_as_often_as_it_is_likely(
    open_lm: Callable[[str], Lm], limits: dict[str, Any]
) -> None:
    lm, draws = open_lm("causal_lm_stream"), 100
    prompt = encode(lm.text, "to be ")
    scores = lm.model(input_ids=torch.tensor([prompt]))[0, -1]
    best = (scores / COLD).softmax(dim=0).sort(descending=True)
    expected = kept(best.values, limits.get("top_k"), limits.get("top_p", 1.0))
    settings: dict[str, Any] = {**limits, "temperature": COLD, "max_new_tokens": 1}
    drawn = Counter(
        encode(lm.text, text)[0]
        for seed in range(draws)
        if (text := say(lm, seed=seed, **settings))
    )
    assert len(drawn) > 1
    for token, share in zip(best.indices.tolist(), expected.tolist(), strict=True):
        if lm.text.decode([token]):  # special tokens leave no text
            deviation = (share * (1 - share) / draws) ** 0.5
            assert drawn[token] / draws == pytest.approx(share, abs=4 * deviation), token


def test_a_stop_text_ends_the_continuation_and_is_no_part_of_it(
    open_lm: Callable[[str], Lm],
) -> None:
    lm = open_lm("causal_lm_stream")
    whole = say(lm, seed=3)
    for stop in (whole[5:7], whole[12], whole[:2]):
        assert say(lm, seed=3, stop=[stop]) == whole[: whole.index(stop)]
    both = [whole[12:14], whole[5:7]]
    assert say(lm, seed=3, stop=both) == whole[: min(map(whole.index, both))]
    assert say(lm, seed=3, stop=["\u6a39"]) == whole


@pytest.mark.parametrize("limit", [1, 60, 95, 200, 5000])
def test_a_prompt_that_fits_stays_whole_however_much_may_be_added(
    open_lm: Callable[[str], Lm], limit: int
) -> None:
    """What is added gets the room that the prompt leaves of the 96 positions."""
    lm, prompt = open_lm("causal_lm_stream"), "to be or not to be "
    ids = encode(lm.text, prompt)
    config = SamplingConfig(max_new_tokens=limit, temperature=0.0)
    said = continue_text(lm.model, lm.spec, lm.text, prompt, config)
    assert said.text == lm.text.decode(greedy(lm, ids, min(limit, 96 - len(ids))))
    assert said.cut_tokens == 0


def test_a_prompt_longer_than_the_positions_keeps_its_end_and_is_told(
    open_lm: Callable[[str], Lm], caplog: pytest.LogCaptureFixture
) -> None:
    lm = open_lm("causal_lm_stream")
    prompt = "to be or not to be " * 20
    ids = encode(lm.text, prompt)
    config = SamplingConfig(temperature=0.0)
    said = continue_text(lm.model, lm.spec, lm.text, prompt, config)
    assert said.text == lm.text.decode(greedy(lm, ids[-95:], 1))
    assert said.cut_tokens == len(ids) - 95
    assert f"its first {len(ids) - 95} tokens are cut" in caplog.text


def test_a_prompt_without_a_token_is_refused_where_nothing_frames_it(
    open_lm: Callable[[str], Lm],
) -> None:
    with pytest.raises(DataError, match="prompt '': has no token to go on from"):
        say(open_lm("causal_lm_stream"), "")
    assert isinstance(say(open_lm("causal_lm_rows"), ""), str)


def test_prompts_of_the_settings_are_continued(caches: Caches, stored_case: Folders) -> None:
    prompts = ["to be", "the question"]
    result = evaluate(
        "causal_lm_stream",
        caches,
        stored_case,
        prompts=prompts,
        sampling=SamplingConfig(max_new_tokens=4, seed=2),
    )
    assert [row["prompt"] for row in result.predictions] == prompts
    assert result.details["sampling"]["seed"] == 2
