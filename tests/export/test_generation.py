"""What the scripts write, against what the checkpoints write: greedy, beams, stops, gaps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.export.plan import BundleSource
from plumbline.export.runtime.text import TextReader
from plumbline.kinds.causal_lm.sampling import continue_text
from plumbline.kinds.language.settings import SamplingConfig
from plumbline.kinds.seq2seq.export import SourceGraph, TargetGraph
from plumbline.kinds.seq2seq.runtime import Seq2SeqTask
from plumbline.kinds.seq2seq.train import PairRows
from tests.export.opening import model_of

SourceOf = Callable[[str], BundleSource]
BundleOf = Callable[..., Path]


def seq2seq_task(source: BundleSource, bundle: Path, eos: int) -> Seq2SeqTask:
    """The script over PyTorch modules in place of exported graphs."""
    task = model_of(bundle).task
    assert isinstance(task, Seq2SeqTask)
    net = source.stored.model.net
    modules: dict[str, Any] = {"encoder": SourceGraph(net), "decoder": TargetGraph(net)}

    def opened(module: Any) -> Callable[..., list[Any]]:
        def run(arrays: Any) -> list[Any]:
            with torch.inference_mode():
                return [module(*(torch.from_numpy(np.array(a)) for a in arrays)).numpy()]

        return run

    task.graphs = {name: opened(module.eval()) for name, module in modules.items()}
    task.contract = {**task.contract, "generation": {**task.contract["generation"], "eos": eos}}
    return task


@pytest.mark.parametrize("beams", [1, 2, 4, 7])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 2.0])
def test_beam_search_writes_what_transformers_writes(
    source_of: SourceOf, bundle_of: BundleOf, beams: int, length_penalty: float
) -> None:
    source = source_of("seq2seq")
    model, spec = source.stored.model, source.stored.spec
    pairs = PairRows(source.cache, "test", spec)
    sources = [pairs.source_ids(at).tolist() for at in range(5)]
    # Random weights never say the real end token: take one that they say in the middle.
    said = model.generate(sources, beams=1, length_penalty=1.0, limit=6)
    special = spec.special_ids.model_copy(update={"eos": said[0][3]})
    model._special_ids = special
    expected = model.generate(sources, beams=beams, length_penalty=length_penalty, limit=7)
    task = seq2seq_task(source, bundle_of("seq2seq"), special.eos)
    for ids, wanted in zip(sources, expected, strict=True):
        row = np.array([ids], np.int64)
        tokens, _ = task.generate(
            [row, np.ones_like(row)], beams=beams, length_penalty=length_penalty, max_new_tokens=7
        )
        assert [token for token in tokens if token != special.eos] == wanted


@pytest.mark.parametrize(
    "name", ["causal_lm_stream", "causal_lm_rows", "causal_lm_answers", "causal_lm_turns"]
)
@pytest.mark.parametrize("prompt", ["t", "to be or not", "whether " * 30])
def test_greedy_continuations_are_those_of_the_checkpoint(
    source_of: SourceOf, bundle_of: BundleOf, name: str, prompt: str
) -> None:
    formats = () if name == "causal_lm_stream" else ("torchscript",)
    stored, model = source_of(name).stored, model_of(bundle_of(name, *formats))
    for tokens in (1, 20, 500):
        config = SamplingConfig(max_new_tokens=tokens, temperature=0.0)
        expected = continue_text(stored.model, stored.spec, stored.text, prompt, config)
        asked = {"prompt": prompt, "max_new_tokens": tokens, "temperature": 0}
        assert model.predict(asked)["text"] == expected.text


CAUSAL = ["causal_lm_stream", "causal_lm_answers"]


@pytest.mark.parametrize("name", CAUSAL)
def test_what_may_be_added_takes_nothing_from_the_prompt(bundle_of: BundleOf, name: str) -> None:
    model = model_of(bundle_of(name))
    asked = {"prompt": "to be or not", "temperature": 0}
    whole = model.task.inputs(asked)[0]
    positions = model.contract["text"]["max_positions"]
    for added in (1, positions - 5, positions - 1, positions, 1000):
        request = {**asked, "max_new_tokens": added}
        assert model.task.inputs(request)[0].tolist() == whole.tolist()
        answer = model.predict(request)
        assert "cut_tokens" not in answer
        room = positions - whole.shape[1]
        if answer["finish"] == "length":
            assert answer["tokens"] == min(added, room)
    assert whole.shape[1] == len(model.task.text.encode("to be or not")) + ("answers" in name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CAUSAL)
def test_of_a_prompt_that_is_too_long_the_end_is_kept_and_the_rest_is_told(
    bundle_of: BundleOf, name: str
) -> None:
    model = model_of(bundle_of(name))
    positions = model.contract["text"]["max_positions"]
    ids = model.task.text.encode("whether " * 30)  # type: ignore[attr-defined]
    framed = [*ids, model.contract["text"]["special_ids"]["bos"]] if "answers" in name else ids
    asked = {"prompt": "whether " * 30, "max_new_tokens": 9, "temperature": 0}
    assert model.task.inputs(asked)[0][0].tolist() == framed[1 - positions :]
    answer = model.predict(asked)
    assert answer["cut_tokens"] == len(framed) - (positions - 1)
    assert answer["tokens"] <= 1


@pytest.mark.parametrize(
    ("name", "field", "section", "key"),
    [
        ("seq2seq", "source", "text", "max_source_tokens"),
        ("text", "text", "input", "max_tokens"),
        ("vlm", "question", "text", "max_prompt_tokens"),
    ],
)
def test_of_any_text_that_is_too_long_the_answer_says_how_much_was_cut(
    bundle: Path, bundle_of: BundleOf, name: str, field: str, section: str, key: str
) -> None:
    folder = bundle if name == "vlm" else bundle_of(name)
    model = model_of(folder)
    most, text = model.contract[section][key], "whether tis noble " * 20
    asked: dict[str, Any] = {field: text}
    if name == "vlm":
        asked["image"] = (folder / "selftest/0.png").read_bytes()
    reader = TextReader(model.files, 10_000)
    assert model.predict(asked)["cut_tokens"] == len(reader.encode(text)) - most > 0
    assert "cut_tokens" not in model.predict({**asked, field: "to be"})


def test_a_stop_ends_the_text_before_it_and_a_seed_repeats_it(bundle_of: BundleOf) -> None:
    model = model_of(bundle_of("causal_lm_stream"))
    asked = {"prompt": "to be", "max_new_tokens": 30, "seed": 5}
    whole = model.predict(asked)
    assert model.predict(asked) == whole
    assert model.predict({**asked, "seed": 6}) != whole
    stop = whole["text"][7:9]
    stopped = model.predict({**asked, "stop": ["never there", stop]})
    assert stopped["finish"] == "stop"
    assert stopped["text"] == whole["text"][: whole["text"].index(stop)]


def test_one_likeliest_token_is_the_greedy_one(bundle_of: BundleOf) -> None:
    model = model_of(bundle_of("causal_lm_stream"))
    asked = {"prompt": "to be", "max_new_tokens": 12}
    greedy = model.predict({**asked, "temperature": 0})["text"]
    assert model.predict({**asked, "temperature": 2.0, "top_k": 1})["text"] == greedy
    assert model.predict({**asked, "temperature": 2.0, "top_p": 1e-6})["text"] == greedy


def test_each_gap_is_filled_with_what_the_checkpoint_finds_likeliest(
    source_of: SourceOf, bundle_of: BundleOf
) -> None:
    stored, model = source_of("masked_lm_rows").stored, model_of(bundle_of("masked_lm_rows"))
    answer = model.predict({"text": "t<mask> be or <mask>ot", "candidates": 4})
    assert [len(found) for found in answer["masks"]] == [4, 4]
    mask, special = stored.spec.mask_id, stored.spec.special_ids
    encode = lambda text: stored.text.encode(text).ids  # noqa: E731
    ids = [special.bos, *encode("t"), mask, *encode(" be or "), mask, *encode("ot"), special.eos]
    row = torch.tensor([ids])
    with torch.inference_mode():
        logits = stored.model(row, torch.ones_like(row))[0][row[0] == mask]
    for found, scores in zip(answer["masks"], logits.softmax(dim=-1), strict=True):
        values, tokens = scores.topk(4)
        assert [one["text"] for one in found] == [stored.text.decode([t]) for t in tokens.tolist()]
        np.testing.assert_allclose([one["probability"] for one in found], values, atol=1e-5)
    first, second = (found[0]["text"] for found in answer["masks"])
    assert answer["text"] == f"t{first} be or {second}ot"
