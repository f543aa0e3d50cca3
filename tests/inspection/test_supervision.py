"""Tokens that carry loss, as text."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from plumbline.cli.main import call
from plumbline.errors import ConfigError
from plumbline.inspection.supervision import _rows

Ask = Callable[..., Any]


@pytest.mark.parametrize("name", ["causal_lm_answers", "causal_lm_turns", "vlm_turns", "vlm"])
def test_answers_and_what_ends_them_are_marked_and_nothing_else(ask: Ask, name: str) -> None:
    for row in ask(name, "supervision", "--samples", "3")["rows"]:
        assert row["supervised"]
        outside = row["text"]
        for said in row["supervised"]:
            assert said.endswith(("<eos>", "<|end|>"))
            assert said.count("<") == 1  # no token of the template within
            assert f"\u27e6{said}\u27e7" in outside
            outside = outside.replace(f"\u27e6{said}\u27e7", "", 1)
        # What stands before an answer: the token behind which the model speaks.
        before = row["text"].split("\u27e6")[:-1]
        assert all(part.endswith(("<bos>", "<|assistant|>")) for part in before)


def test_a_target_is_a_text_of_its_own(ask: Ask) -> None:
    (row,) = ask("seq2seq", "supervision", "--samples", "1")["rows"]
    assert row["given"].startswith("or tis or whether the that")
    assert row["text"] == "\u27e6roen siten roen rehtehwen ehten tahten<eos>\u27e7"
    assert row["tokens"] == row["of"] == 8


def test_hidden_tokens_are_shown_as_what_is_to_be_said() -> None:
    # ids of "a ? c ?": the second and the fourth are hidden as token 3.
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3}, "?"))
    ids, labels = torch.tensor([[0, 3, 2, 3]]), torch.tensor([[-100, 1, -100, 0]])
    (row,) = _rows({"input_ids": ids, "labels": labels}, tokenizer)
    assert row["text"] == "a\u27e6 b\u27e7 c\u27e6 a\u27e7"
    assert (row["tokens"], row["of"]) == (2, 4)


def test_a_label_of_the_next_token_marks_the_next_token() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3}, "?"))
    ids, labels = torch.tensor([[0, 1, 2]]), torch.tensor([[-100, 2, 0]])
    (row,) = _rows({"input_ids": ids, "labels": labels}, tokenizer)
    assert row["text"] == "a b\u27e6 c a\u27e7"


def test_what_learns_no_tokens_says_so(ask: Ask) -> None:
    with pytest.raises(ConfigError, match="features: learns no tokens, so none carries loss"):
        ask("features", "supervision")


def test_marks_stay_where_no_terminal_is(here: object, capsys: pytest.CaptureFixture[str]) -> None:
    call(["inspect", "seq2seq", "supervision", "--samples", "1"])
    out = capsys.readouterr().out
    assert out.startswith("row 0: 8 of 8 tokens carry loss\n  given  or tis")
    assert "\x1b" not in out
