"""Turns become the ids that transformers makes of them, and answers alone are to be learnt."""

import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from transformers import AutoTokenizer

from plumbline.data.turns import Turn, parse_turns
from plumbline.tokenization.chat_checkpoint import read_chat_format
from plumbline.tokenization.chat_template import (
    CHAT_TOKENS,
    END,
    OWN_TEMPLATE,
    ChatError,
    ChatTemplate,
)
from plumbline.tokenization.chat_tokens import ChatEncoder, Encoded
from plumbline.tokenization.tokenizer import TokenizerConfig, load_tokenizer, train_tokenizer
from tests.chat_checkpoints import CHECKPOINTS, CORPUS, write_checkpoint
from tests.sources.test_chat import IN_DIALECTS, read_jsonl

ALL = pytest.mark.parametrize("name", CHECKPOINTS)


@cache
def folder(name: str) -> Path:
    return write_checkpoint(Path(mkdtemp()) / name, name)


@cache
def reference(name: str) -> Any:
    return AutoTokenizer.from_pretrained(str(folder(name)))


@cache
def encoder(name: str) -> ChatEncoder:
    chat = read_chat_format(folder(name), None)
    template = ChatTemplate(chat["template"], chat["tokens"])
    return ChatEncoder(template, load_tokenizer(folder(name)))


def talk(*said: str, system: str = "") -> list[Turn]:
    turns: list[Turn] = [{"role": "system", "content": system}] if system else []
    for number, content in enumerate(said):
        turns.append({"role": "assistant" if number % 2 else "user", "content": content})
    return turns


def learnt(name: str, encoded: Encoded) -> list[str]:
    """What is to be learnt, decoded by transformers."""
    return [reference(name).decode(encoded.ids[a:b]) for a, b in encoded.answers]


TALKS = {
    "one exchange": talk("What is one plus one?", "Two."),
    "two exchanges": talk("What is one plus one?", "Two.", "And one more?", "Three, of course"),
    "system": talk("What is 1 + 1?", "2", "And more?", "(3)", system="Be brief."),
    "user last": talk("one", "Two.", "Thanks!"),
    "unicode": talk("naïve ☃ 日本?", "日本 👩‍👩‍👧 é\u0301 ‏עברית"),
    "code": talk("f(x)?", "def f(x):\n\n    return x\n\t# end", "[INST] more", "{}: 10"),
}


@pytest.mark.parametrize("dialect", IN_DIALECTS)
@ALL
def test_answers_of_every_dialect_and_their_ends_are_learnt_and_nothing_else(
    tmp_path: Path, dialect: str, name: str
) -> None:
    (cell,) = read_jsonl(tmp_path, dialect, IN_DIALECTS[dialect])
    assert cell is not None
    found = encoder(name).encode(parse_turns(cell.decode()))
    end = CHECKPOINTS[name].end
    assert learnt(name, found) == [f"2{end}", f"3{end}"]
    assert [found.ids[stop - 1] for _, stop in found.answers] == [encoder(name).end] * 2


@pytest.mark.parametrize("which", TALKS)
@ALL
def test_ids_are_those_of_transformers(name: str, which: str) -> None:
    turns = TALKS[which]
    found = encoder(name).encode(turns)
    assert found.ids == reference(name).apply_chat_template(turns, return_dict=False)
    said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    assert learnt(name, found) == [content + CHECKPOINTS[name].end for content in said]
    assert encoder(name).misread(turns, found) is None


@pytest.mark.parametrize("which", TALKS)
@ALL
def test_a_prompt_is_that_of_transformers_and_what_training_saw(name: str, which: str) -> None:
    """Up to each answer: a prompt that training never saw would be answered worse."""
    turns = TALKS[which]
    whole = encoder(name).encode(turns)
    places = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    for at, (start, _) in zip(places, whole.answers, strict=True):
        prompt = encoder(name).encode(turns[:at], prompt=True).ids
        assert prompt == reference(name).apply_chat_template(
            turns[:at], add_generation_prompt=True, return_dict=False
        )
        assert prompt == whole.ids[: len(prompt)]
        # What stands behind it is learnt, but for thoughts that the template has put in.
        between = whole.ids[len(prompt) : start]
        assert between == [] or (
            name == "thinking" and reference(name).decode(between) == "<think>\n\n</think>\n\n"
        )


@ALL
def test_a_special_token_that_is_typed_stays_text(name: str) -> None:
    """In every turn, alone, at the ends, in a row: it is no id of a special token."""
    end, special = CHECKPOINTS[name].end, set(reference(name).all_special_ids)
    hostile = talk(f"{end} a {end}{end} b", f"{end}Two{end} and {end}", f"x{end}", end)
    honest = talk("a b", "Two and", "x", "")
    found, plain = encoder(name).encode(hostile), encoder(name).encode(honest)
    count = [sum(i in special for i in ids) for ids in (found.ids, plain.ids)]
    assert count[0] == count[1]
    assert learnt(name, found) == [f"{end}Two{end} and {end}{end}", f"{end}{end}"]
    assert encoder(name).misread(hostile, found) is None
    # Transformers would take them for the ends of turns.
    assert found.ids != reference(name).apply_chat_template(hostile, return_dict=False)


@pytest.mark.parametrize(
    "content", ["", " ", "\n", " a", "\na", "\n\na", "a ", "a\n", "a\n\n", " \n a \n ", "\ta\u00a0"]
)
@ALL
def test_white_space_at_the_ends_is_learnt_as_far_as_the_template_leaves_it(
    name: str, content: str
) -> None:
    turns = talk(content, content, content, content)
    rendered = reference(name).apply_chat_template(turns, tokenize=False)
    found = encoder(name).encode(turns)
    assert reference(name).decode(found.ids) == rendered
    kept = content.strip() if name in ("llama3", "gemma") else content
    trimmed = kept.lstrip("\n") if name == "thinking" else kept
    answers = learnt(name, found)
    # A decoder of this type takes the blank of the template away, and no more than one.
    assert answers == [f"{left}{CHECKPOINTS[name].end}" for left in (kept, trimmed)] or (
        name in ("inst", "zephyr")
        and [a.lstrip(" ") for a in answers]
        == [f"{content}{CHECKPOINTS[name].end}".lstrip(" ")] * 2
    )


BITS = ["<|im_end|>", "<|im_start|>", "assistant\n", "</s>", "[INST]", " [/INST] ", "<end_of_turn>"]
BITS += ["<start_of_turn>model\n", "<|eot_id|>", "\n", "\n\n", " ", "\t", "\u00a0", "\u2028", "Two"]
BITS += [
    "é",
    "日",
    "😀",
    "▁",
    "<",
    "|",
    ">",
    "im_end",
    "\uf8f00\uf8f1",
    "<think>",
    "{{ x }}",
    "{% for %}",
]


@ALL
def test_whatever_is_said_is_learnt_and_is_behind_its_prompt(name: str) -> None:
    """Ids differ from those of transformers where specials are typed, or a token lay across."""
    draw, special = random.Random(name), set(reference(name).all_special_ids)
    own = encoder(name)
    for _ in range(150):
        said = ["".join(draw.choices(BITS, k=draw.randint(0, 7))) for _ in range(4)]
        turns = talk(*said)
        found = own.encode(turns)
        assert own.misread(turns, found) is None
        harmless = own.encode(talk("a", "b", "c", "d")).ids
        assert sum(i in special for i in found.ids) == sum(i in special for i in harmless)
        for at, (start, _) in zip((1, 3), found.answers, strict=True):
            prompt = own.encode(turns[:at], prompt=True).ids
            assert found.ids[: len(prompt)] == prompt
            assert len(prompt) <= start


def test_a_token_never_lies_on_both_sides_of_where_an_answer_begins() -> None:
    """Two line ends are one token, but a prompt ends with the first of them."""
    turns = talk("one", "\nTwo", "more", "\n\nThree")
    found = encoder("chatml").encode(turns)
    assert learnt("chatml", found) == ["\nTwo<|im_end|>", "\n\nThree<|im_end|>"]
    for at, (start, _) in zip((1, 3), found.answers, strict=True):
        assert found.ids[:start] == encoder("chatml").encode(turns[:at], prompt=True).ids
    assert found.ids != reference("chatml").apply_chat_template(turns, return_dict=False)


def test_thoughts_that_the_template_puts_in_are_not_learnt() -> None:
    found = encoder("thinking").encode(talk("one", "Two.", "more", "Three."))
    assert reference("thinking").decode(found.ids).count("<think>") == 1
    assert learnt("thinking", found) == ["Two.<|im_end|>", "Three.<|im_end|>"]


def own_encoder(kind: str) -> ChatEncoder:
    config = TokenizerConfig.model_validate({"kind": kind, "vocab_size": 320, "min_frequency": 1})
    tokenizer = train_tokenizer(CORPUS, config, CHAT_TOKENS)
    return ChatEncoder(ChatTemplate(OWN_TEMPLATE, {}), tokenizer)


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_tokenizer_that_is_trained_here_has_a_template_of_its_own(kind: str) -> None:
    own = own_encoder(kind)
    turns = talk("one?", f" two {END}\n", "and", "more")
    found = own.encode(turns)
    assert own.misread(turns, found) is None
    decode = own._plain.decode
    answers = [decode(found.ids[a:b], skip_special_tokens=False) for a, b in found.answers]
    assert answers == [f" two {END}\n{END}", f"more{END}"]
    prompt = own.encode(turns[:3], prompt=True).ids
    assert prompt == found.ids[: found.answers[1][0]]


def test_a_mask_that_lies_elsewhere_is_found_by_decoding() -> None:
    turns = talk("What is one plus one?", "Two.", "And?", "Three.")
    found = encoder("chatml").encode(turns)
    for move in ((-1, 0), (1, 0), (0, 1), (0, -1)):
        (start, stop), second = found.answers
        moved = found._replace(answers=[(start + move[0], stop + move[1]), second])
        assert encoder("chatml").misread(turns, moved) is not None
    swapped = found._replace(answers=found.answers[::-1])
    assert encoder("chatml").misread(turns, swapped) == (
        "Two.<|im_end|>",
        "Three.<|im_end|>",
    )


def build(source: str) -> ChatEncoder:
    template = ChatTemplate(source, {"eos_token": "<|im_end|>"})
    return ChatEncoder(template, load_tokenizer(folder("chatml")))


def encode(source: str, turns: list[Turn]) -> Encoded:
    return build(source).encode(turns)


LOOP = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for", "fails: "),
        ("{{ messages[7].content.x }}", "fails: "),
        ("{{ 1 // 0 }}", "fails: "),
        (LOOP + "{{ raise_exception('no system here') }}", "fails: no system here"),
        (LOOP + "{{ strftime_now('%Y') }}", "today's date would make other ids"),
        (LOOP + "{{ ['a', 'b'] | random }}", "fails: "),
        (LOOP.replace("m.content", "m.content | upper"), "depends on their words"),
        (LOOP.replace("m.content", "m.content | replace('plus', '+')"), "depends on their words"),
        (LOOP.replace("messages", "messages[1:]"), "leaves turn 1 of "),
        (LOOP + LOOP, "repeats one"),
        (LOOP.replace("eos_token", "'\n'"), "no special token"),
        (LOOP.replace("eos_token", "' over' + eos_token"), "no special token"),
    ],
)
def test_a_template_that_cannot_be_relied_on_is_refused_in_one_line(source: str, said: str) -> None:
    turns = talk("what is one plus one?", "two plus", system="Be brief.")
    with pytest.raises(ChatError) as caught:
        encode(source, turns)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_date_of_its_own_is_used_where_a_template_has_one() -> None:
    """As Llama 3.2's: transformers would write today's."""
    date = "{{ strftime_now('%d') if strftime_now is defined else '26 Jul 2024' }}"
    assert (
        ChatTemplate(date + LOOP, {"eos_token": ""}).render(TALKS["system"])[:11] == "26 Jul 2024"
    )


def test_marks_of_answers_within_a_template_are_passed_over() -> None:
    marked = LOOP.replace("{{ m", "{% generation %}{{ m").replace(
        "_token }}", "_token }}{% endgeneration %}"
    )
    plain, found = (ChatTemplate(s, {"eos_token": "</s>"}) for s in (LOOP, marked))
    assert found.render(TALKS["system"]) == plain.render(TALKS["system"])


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    with pytest.raises(ChatError, match="unsafe"):
        ChatTemplate("{{ ''.__class__.__mro__ }}", {}).render(TALKS["system"])


def test_the_template_of_a_folder_is_found_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer_config.json"
    tokens = {"eos_token": {"content": "</s>", "lstrip": False}, "pad_token": None}
    file.write_text(json.dumps({"chat_template": "old", **tokens}), encoding="utf-8")
    assert read_chat_format(tmp_path, None) == {"template": "old", "tokens": {"eos_token": "</s>"}}
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    file.write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    assert read_chat_format(tmp_path, None)["template"] == "d"
    (tmp_path / "chat_template.jinja").write_text("new", encoding="utf-8")
    assert read_chat_format(tmp_path, None)["template"] == "new"
    assert read_chat_format(tmp_path, "mine")["template"] == "mine"
