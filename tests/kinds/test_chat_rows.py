"""Conversations as a causal language model reads them: answers alone carry loss, none is cut."""

import argparse
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders

from plumbline.batch import IGNORE_INDEX, Sample
from plumbline.data.turns import Turn, dump_turns
from plumbline.errors import ConfigError, DataError
from plumbline.files import read_json
from plumbline.kinds.causal_lm.sampling import prompt_ids
from plumbline.kinds.causal_lm.settings import CausalLmTaskConfig
from plumbline.kinds.language.chat_rows import ChatRows
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.turns_reader import CachedTurns
from plumbline.models.stored import load_model
from plumbline.predict import add_options, predict
from plumbline.tokenization.chat_template import OWN_TEMPLATE
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.tokenizer import load_tokenizer
from plumbline.training.task import TrainingJob
from tests.chat_checkpoints import CHECKPOINTS, write_checkpoint
from tests.checkpoints import record_checkpoint
from tests.tiny import make_cache, write_rows

Caches = Callable[[str], TrainingCache]
MakeJob = Callable[..., TrainingJob]


def talk(*said: str, system: str = "") -> list[Turn]:
    turns: list[Turn] = [{"role": "system", "content": system}] if system else []
    for number, content in enumerate(said):
        turns.append({"role": "assistant" if number % 2 else "user", "content": content})
    return turns


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are recorded in the working folder."""
    monkeypatch.chdir(tmp_path)


def cache_of(
    folder: Path, *talks: list[Turn], checkpoint: Path | None = None, **tokenize: Any
) -> TrainingCache:
    (folder / "clean").mkdir(parents=True)
    rows = [{"sample_id": str(at), "turns": dump_turns(turns)} for at, turns in enumerate(talks)]
    write_rows(folder / "clean", "train", rows)
    tokenize = {"tokenizer": {"kind": "char"}, **tokenize}
    weights = {}
    if checkpoint is not None:
        tokenize["tokenizer"] = {"pretrained": "theirs"}
        weights["weights"] = record_checkpoint(checkpoint)
    cache: TrainingCache = make_cache(folder, tokenize, {"min_train_rows": 1}, **weights)
    return cache


def learnt(cache: TrainingCache, sample: Sample) -> str:
    """The labelled tokens of a sample, decoded."""
    ids = sample["ids"][sample["labels"] != IGNORE_INDEX].tolist()
    return str(load_tokenizer(cache.folder).decode(ids, skip_special_tokens=False))


TALKS = [
    talk("aaaa", "bb", "cc", "ddd"),  # 1+4+1 +1+2+1 +1+2+1 +1+3+1: answers end at 10 and 19
    talk("aa", "bb", system="cccc"),  # 6 + 4 + 4
    talk("aaaa", "bb", "cc", "ddd"),
    talk("aaaa", "bb", "cc"),  # the user has the last word, which nobody learns
]


def test_answers_and_their_ends_carry_loss_and_nothing_else(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, *TALKS)
    rows = ChatRows(cache, "train", 100)
    assert [learnt(cache, rows.sample(at, 0)) for at in range(len(rows))] == [
        "bb<|end|>ddd<|end|>",
        "bb<|end|>",
        "bb<|end|>ddd<|end|>",
        "bb<|end|>",
    ]
    np.testing.assert_array_equal([rows.length(at) for at in range(4)], [19, 14, 19, 10])
    for at in range(4):
        sample = rows.sample(at, 0)
        np.testing.assert_array_equal(len(sample["ids"]), rows.length(at))
        counts = sample["labels"] != IGNORE_INDEX
        np.testing.assert_array_equal(sample["labels"][counts], sample["ids"][counts])
    assert cache.facts["chat"]["conversations"] == 3  # the third is the first again
    assert cache.facts["chat"]["longest_tokens"] == 19


@pytest.mark.parametrize(
    ("block", "kept", "cut", "lost"),
    [
        (18, [19, 14, 19, 10], 0, 0),
        (17, [10, 14, 10, 10], 2, 0),
        (13, [10, 14, 10, 10], 2, 0),
        (12, [10, 10, 10], 2, 1),
        (9, [10, 10, 10], 2, 1),
    ],
)
def test_whole_exchanges_go_from_the_end_and_all_that_go_are_counted(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    block: int,
    kept: list[int],
    cut: int,
    lost: int,
) -> None:
    caplog.set_level(logging.WARNING)
    cache = cache_of(tmp_path, *TALKS)
    rows = ChatRows(cache, "train", block)
    np.testing.assert_array_equal([rows.length(at) for at in range(len(rows))], kept)
    for at in range(len(rows)):
        sample = rows.sample(at, 0)
        np.testing.assert_array_equal(sample["ids"], rows.sample(at, 1)["ids"])
        np.testing.assert_array_equal(len(sample["ids"]), kept[at])
        assert learnt(cache, sample).endswith("<|end|>")
    said = (
        f"of 4 conversations of split train, {cut} lose their last exchanges, which do not fit "
        f"task.block_size = {block}, and {lost} are left out, since not even their first one does"
    )
    assert [said in line for line in caplog.messages] == [True] * bool(cut + lost)


def test_data_of_which_nothing_fits_is_refused(tmp_path: Path, caches: Caches) -> None:
    cache = cache_of(tmp_path, *TALKS)
    with pytest.raises(DataError, match=r"no conversation in split 'train' .*block_size = 8"):
        ChatRows(cache, "train", 8)
    with pytest.raises(DataError, match="this dataset has no turns"):
        ChatRows(caches("text"), "train", 100)


def test_the_loss_of_an_answer_is_the_same_where_later_ones_are_left_away(
    make_job: MakeJob, caches: Caches
) -> None:
    """A causal model sees no more of a conversation than stands before."""
    job = make_job("causal_lm_turns")
    whole, short = (ChatRows(caches("chats"), "train", block) for block in (90, 45))
    numbers = short._numbers.tolist()
    places = [whole._numbers.tolist().index(number) for number in numbers]
    compared = 0
    for at, place in enumerate(places):
        if short.length(at) == whole.length(place):
            continue
        with torch.inference_mode():
            cut, full = (
                job.model(job.task.collate([rows.sample(where, 0)])["input_ids"])
                for rows, where in ((short, at), (whole, place))
            )
        kept, all_of_it = (rows.sample(w, 0)["labels"] for rows, w in ((short, at), (whole, place)))
        np.testing.assert_array_equal(kept, all_of_it[: len(kept)])
        torch.testing.assert_close(cut[0], full[0, : cut.shape[1]], rtol=1e-4, atol=1e-5)
        compared += 1
    assert compared > 3


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_s_own_template_reaches_the_labels(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", name)
    end = CHECKPOINTS[name].end
    turns = talk("What is one?", "Two.", f"and {end} more?", "Three", system="Be brief.")
    cache = cache_of(tmp_path / "data", turns, checkpoint=folder)
    sample = ChatRows(cache, "train", 200).sample(0, 0)
    assert learnt(cache, sample).replace(f"{end} ", end) == f"Two.{end}Three{end}"
    assert cache.facts["chat"]["end"] == sample["ids"][-1]
    assert CachedTurns(cache.folder).turns(0) == turns


def test_a_template_of_the_settings_comes_before_that_of_the_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", "llama3")
    tokenize = {
        "chat_template": "{% for m in messages %}"
        "{{ m.role + ': ' + m.content + '<|end_of_text|>' }}{% endfor %}",
    }
    cache = cache_of(tmp_path / "data", talk("one", "Two."), checkpoint=folder, **tokenize)
    sample = ChatRows(cache, "train", 200).sample(0, 0)
    assert learnt(cache, sample) == "Two.<|end_of_text|>"


def test_a_template_without_turns_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", "llama3")
    (tmp_path / "clean").mkdir()
    write_rows(tmp_path / "clean", "train", [{"sample_id": "a", "text": "a"}])
    weights = record_checkpoint(folder)
    tokenize = {"tokenizer": {"pretrained": "theirs"}, "chat_template": "x"}
    with pytest.raises(DataError, match=r"chat_template is set, but there are no turns"):
        make_cache(tmp_path, tokenize, {"min_train_rows": 1}, weights)


def test_a_row_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", "gemma")
    refusing = CHECKPOINTS["gemma"].template.replace("== 'system'", "== raise_exception('no')")
    (folder / "chat_template.jinja").write_text(refusing, encoding="utf-8")
    with pytest.raises(DataError, match=r"^the chat template fails: no$"):
        cache_of(tmp_path / "all", talk("one", "Two."), checkpoint=folder)
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = no_system + CHECKPOINTS["gemma"].template
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    talks = (talk("one", "Two."), talk("one", "Two.", system="Be brief."))
    with pytest.raises(DataError, match=r"^row 1: the chat template fails: no system$"):
        cache_of(tmp_path / "one", *talks, checkpoint=folder)


def test_tokens_to_learn_that_do_not_say_the_answer_are_refused(tmp_path: Path) -> None:
    """Whatever the cause, here a decoder that loses an end."""
    folder = write_checkpoint(tmp_path / "checkpoint", "chatml")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lossy = decoders.Replace("Two<|im_end|>", "Two")
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), lossy])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(DataError) as caught:
        cache_of(tmp_path / "data", talk("one", "Three"), talk("one", "Two"), checkpoint=folder)
    assert str(caught.value) == (
        "row 1: the assistant says 'Two<|im_end|>', and the tokens to learn say 'Two': this "
        "tokenizer and this chat template do not go together"
    )


def test_a_checkpoint_without_a_template_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", "llama3")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"has no chat template.* set tokenize\.chat_template"):
        cache_of(tmp_path / "data", talk("one", "Two."), checkpoint=folder)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="rows is stream, but conversations are rows"):
        CausalLmTaskConfig(text="turns", rows="stream")
    with pytest.raises(ValidationError, match=r"chat_template is set, but tokenizer\.pretrained"):
        TokenizeConfig(chat_template="{{ messages }}")


def ask(folder: Path, *flags: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return predict(folder, parser.parse_args(["chat", *flags]))


def test_a_model_answers_what_it_is_asked_by_turns(stored_case: Callable[[str], Path]) -> None:
    folder = stored_case("causal_lm_turns")
    stored = load_model(folder)
    spec: Any = stored.spec
    turns = talk("to be", "or not", "that is?", system="be noble")
    whole = prompt_ids(spec, stored.text, turns)
    assert stored.text.decode(whole, skip_special_tokens=False) == (
        "<|system|>be noble<|end|><|user|>to be<|end|><|assistant|>or not<|end|>"
        "<|user|>that is?<|end|><|assistant|>"
    )
    assert prompt_ids(spec, stored.text, "to be") == prompt_ids(spec, stored.text, talk("to be"))
    greedy = ("--temperature", "0", "--max-new-tokens", "9")
    said = ask(folder, "--messages", dump_turns(turns), *greedy)
    assert said["messages"] == turns
    by_turn = ask(folder, "--messages", dump_turns(talk("to be")), *greedy)
    assert by_turn["text"] == ask(folder, "--prompt", "to be", *greedy)["text"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--prompt, or --messages: missing"),
        (["--prompt", "a", "--messages", dump_turns(talk("a"))], "one of them, not both"),
        (["--messages", "[]"], "--messages: turn 1: assistant, where user is expected"),
        (["--messages", "hello"], "--messages: not JSON"),
        (["--messages", dump_turns(talk("a", "b"))], "--messages: turn 3: assistant, where user"),
    ],
)
def test_what_is_no_prompt_is_refused(
    stored_case: Callable[[str], Path], flags: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        ask(stored_case("causal_lm_turns"), *flags)


def test_a_model_of_texts_takes_no_turns(stored_case: Callable[[str], Path]) -> None:
    with pytest.raises(DataError, match="was not trained on conversations"):
        ask(stored_case("causal_lm_rows"), "--messages", dump_turns(talk("a")))


def test_only_a_model_of_conversations_stores_a_template(
    stored_case: Callable[[str], Path],
) -> None:
    folder = stored_case("causal_lm_turns")
    assert "chat" not in read_json(stored_case("causal_lm_rows") / "model.json")
    chat = read_json(folder / "model.json")["chat"]
    assert chat == {"template": OWN_TEMPLATE, "tokens": {}}
    spec: Any = load_model(folder).spec
    assert spec.chat.model_dump() == chat
