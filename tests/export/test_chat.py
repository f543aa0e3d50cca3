"""A bundle of a model of conversations is asked by turns, through the template that it holds."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbline.export.plan import BundleSource
from plumbline.export.runtime.files import InputError
from plumbline.kinds.causal_lm.sampling import continue_text, prompt_ids
from plumbline.kinds.language.settings import SamplingConfig
from tests.export.opening import model_of

BundleOf = Callable[..., Path]
SourceOf = Callable[[str], BundleSource[Any, Any]]

TURNS: list[Any] = [
    {"role": "system", "content": "be noble"},
    {"role": "user", "content": "to be <|end|> or not"},
    {"role": "assistant", "content": "that is"},
    {"role": "user", "content": "the question"},
]


def test_turns_become_the_ids_and_the_answer_of_the_checkpoint(
    source_of: SourceOf, bundle_of: BundleOf
) -> None:
    stored, model = source_of("causal_lm_turns").stored, model_of(bundle_of("causal_lm_turns"))
    assert model.task.inputs({"messages": TURNS})[0][0].tolist() == prompt_ids(
        stored.spec, stored.text, TURNS
    )
    config = SamplingConfig(max_new_tokens=12, temperature=0.0)
    expected = continue_text(stored.model, stored.spec, stored.text, TURNS, config)
    asked = {"messages": TURNS, "max_new_tokens": 12, "temperature": 0}
    assert model.predict(asked)["text"] == expected.text
    first = [TURNS[1]]
    one = model.predict({**asked, "messages": first})
    del asked["messages"]
    assert one == model.predict({**asked, "prompt": first[0]["content"]})


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "messages, or prompt: one of the two"),
        ({"messages": TURNS, "prompt": "a"}, "messages, or prompt: one of the two"),
        ({"messages": "a"}, "messages: not of type turns"),
        ({"messages": []}, "messages: turn 1: assistant, where user is expected"),
        ({"messages": TURNS[:3]}, "messages: turn 4: assistant, where user is expected"),
        ({"messages": [{"role": "user"}]}, "messages: turn 1: its content is no text"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages: turn 1: role 'tool'"),
        ({"messages": [7]}, "messages: turn 1: not an object"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
    ],
)
def test_what_is_no_prompt_is_refused(
    bundle_of: BundleOf, request_: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        model_of(bundle_of("causal_lm_turns")).predict(request_)
    assert said in str(caught.value)


def test_only_a_bundle_of_conversations_has_a_template_and_what_runs_it(
    bundle_of: BundleOf,
) -> None:
    for name, chats in (("causal_lm_turns", True), ("causal_lm_answers", False)):
        folder = bundle_of(name)
        contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
        assert ("chat" in contract) == chats
        required = (folder / "requirements.txt").read_text(encoding="utf-8")
        assert ("jinja2==" in required) == chats
        for module in ("chat_template", "chat_tokens", "turns"):
            assert (folder / f"runtime/{module}.py").is_file() == chats
        assert ("messages" in model_of(folder).task.fields) == chats


def test_the_script_of_the_bundle_takes_turns_and_repeats_its_self_test(
    bundle_of: BundleOf,
) -> None:
    folder = bundle_of("causal_lm_turns")

    def run(*flags: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-I", str(folder / "inference.py"), *flags],
            capture_output=True,
            text=True,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    assert run("--selftest")["selftest"] == "ok"
    asked = ("--max-new-tokens", "6", "--temperature", "0")
    said = run("--messages", json.dumps(TURNS), *asked)
    known = model_of(folder).predict({"messages": TURNS, "max_new_tokens": 6, "temperature": 0})
    assert said == known
