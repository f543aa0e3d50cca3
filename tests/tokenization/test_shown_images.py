"""Turns that show images become ids with a place for each, and answers alone are learnt."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from plumbline.data.turns import IMAGE_ID, IMAGE_MARK, Turn, parse_turns
from tests.chat_checkpoints import CHECKPOINTS
from tests.sources.test_shown_images import ANSWER, IN_DIALECTS, read
from tests.tokenization.test_chat import encoder, folder, learnt

ALL = pytest.mark.parametrize("name", CHECKPOINTS)
SPECIAL = "<|an image|>"


def shows(content: str, images: list[int] | None = None) -> Turn:
    turn: Turn = {"role": "user", "content": content}
    marks = list(range(content.count(IMAGE_MARK))) if images is None else images
    return {**turn, "images": marks} if marks else turn


def says(content: str) -> Turn:
    return {"role": "assistant", "content": content}


TALKS: dict[str, list[Turn]] = {
    "first": [shows(f"{IMAGE_MARK}\nWhat is one plus one?"), says("Two.")],
    "last": [shows(f"What is 1 + 1? {IMAGE_MARK}"), says("2")],
    "alone": [shows(IMAGE_MARK), says("red")],
    "neighbours": [shows(f"a{IMAGE_MARK}{IMAGE_MARK} {IMAGE_MARK}b"), says("three")],
    "two turns": [
        {"role": "system", "content": "Be brief."},
        shows(f"{IMAGE_MARK} red?"),
        says("Yes"),
        shows(f"and {IMAGE_MARK}?\n"),
        says("(no)"),
    ],
}


@pytest.mark.parametrize("which", IN_DIALECTS)
@ALL
def test_answers_of_every_dialect_and_their_ends_are_learnt_and_nothing_else(
    tmp_path: Path, which: str, name: str
) -> None:
    dialect, record = IN_DIALECTS[which]
    (row,) = read(tmp_path, dialect, record)
    turns = parse_turns(row["turns"])
    found = encoder(name).encode(turns)
    assert learnt(name, found) == [f"{ANSWER}{CHECKPOINTS[name].end}"]
    assert found.ids.count(IMAGE_ID) == 2
    assert encoder(name).misread(turns, found) is None


def with_special(name: str) -> Any:
    """The tokenizer as its authors would give it a token for images."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder(name)))
    tokenizer.add_special_tokens({"additional_special_tokens": [SPECIAL]})
    return tokenizer


@pytest.mark.parametrize("which", TALKS)
@ALL
def test_ids_are_those_of_a_tokenizer_with_a_special_token_for_images(
    name: str, which: str
) -> None:
    turns = TALKS[which]
    reference = with_special(name)
    theirs = [{**t, "content": t["content"].replace(IMAGE_MARK, SPECIAL)} for t in turns]
    expected = reference.apply_chat_template(theirs, return_dict=False)
    image = reference.convert_tokens_to_ids(SPECIAL)
    found = encoder(name).encode(turns)
    assert found.ids == [IMAGE_ID if token == image else token for token in expected]
    end = CHECKPOINTS[name].end
    assert learnt(name, found) == [t["content"] + end for t in turns if t["role"] == "assistant"]


@pytest.mark.parametrize("which", TALKS)
@ALL
def test_a_prompt_is_what_training_saw(name: str, which: str) -> None:
    turns = TALKS[which]
    whole = encoder(name).encode(turns)
    for at, (start, _) in zip(
        [n for n, t in enumerate(turns) if t["role"] == "assistant"], whole.answers, strict=True
    ):
        prompt = encoder(name).encode(turns[:at], prompt=True).ids
        assert prompt == whole.ids[: len(prompt)]
        assert len(prompt) <= start


@ALL
def test_a_mark_that_somebody_typed_is_no_image(name: str) -> None:
    typed, shown = f"a{IMAGE_MARK}b{IMAGE_MARK}", "what?"
    none = encoder(name).encode([shows(typed, []), says(f"x{IMAGE_MARK}"), shows(shown), says("y")])
    assert IMAGE_ID not in none.ids
    one = encoder(name).encode([shows(typed, [1]), says("x")])
    assert one.ids.count(IMAGE_ID) == 1
    at = one.ids.index(IMAGE_ID)
    assert "b" in with_special(name).decode(one.ids[at - 1 : at])
