"""Asking the checkpoint gives what asking the bundle gives, for every kind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbline.cli.main import call
from plumbline.errors import ConfigError, DataError
from plumbline.export.runtime.model import agree
from plumbline.files import read_json
from plumbline.models.stored import load_model
from tests.export.opening import model_of
from tests.tiny import CASES

FolderOf = Callable[[str], Path]
BundleOf = Callable[..., Path]

ASKED: dict[str, dict[str, Any]] = {
    "image": {},
    "gray": {},
    "audio": {},
    "regression": {},
    "text": {},
    "causal_lm_stream": {"temperature": 0.0, "max_new_tokens": 20},
    "masked_lm_rows": {"candidates": 3},
    "seq2seq": {"beams": 3, "max_new_tokens": 8},
}
"""Case -> what is asked beside the stored request."""


@pytest.fixture
def ask(
    folder_of: FolderOf,
    caches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., dict[str, Any]]:
    """Runs the command line in a checkout that has the model's cache; the line that it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> dict[str, Any]:
        data = CASES[name].data
        place = tmp_path / "work/cache" / data
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(caches(data).folder / "cache.json", place)
        call(["predict", "any", "--model", str(folder_of(name)), *arguments])
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert answer.pop("device")
        return answer

    return run


@pytest.mark.parametrize("name", ASKED)
def test_the_checkpoint_and_the_bundle_say_the_same(
    ask: Callable[..., dict[str, Any]], bundle_of: BundleOf, name: str
) -> None:
    bundle = bundle_of(name)
    request = read_json(bundle / "selftest/selftest.json")["answers"][0]["request"]
    model = model_of(bundle)
    request = {k: v for k, v in request.items() if k not in ("stop", "temperature")} | ASKED[name]
    flags, asked = [], {}
    for field, value in request.items():
        file = model.task.fields[field] == "file"
        flags += [f"--{field.replace('_', '-')}", str(bundle / value if file else value)]
        asked[field] = (bundle / value).read_bytes() if file else value
    expected, got = model.predict(asked), ask(name, *flags)
    shared = expected.keys() & got.keys()
    assert shared
    assert agree({k: expected[k] for k in shared}, {k: got[k] for k in shared}, 1e-4)


@pytest.mark.parametrize(
    ("name", "flag", "text", "limit"),
    [
        ("causal_lm_stream", "--prompt", "to be or not to be " * 20, 95),
        ("seq2seq", "--source", "to be or not " * 30, 40),
        ("text", "--text", "to be or not " * 50, 60),
    ],
)
def test_an_answer_says_how_much_of_the_question_was_cut(
    ask: Callable[..., dict[str, Any]],
    folder_of: FolderOf,
    name: str,
    flag: str,
    text: str,
    limit: int,
) -> None:
    tokens = len(load_model(folder_of(name)).text.encode(text, add_special_tokens=False).ids)
    assert ask(name, flag, text)["cut_tokens"] == tokens - limit > 0
    assert "cut_tokens" not in ask(name, flag, "to be")


def test_equal_seeds_give_equal_texts_and_stops_are_not_part_of_them(
    ask: Callable[..., dict[str, Any]],
) -> None:
    asked = ("causal_lm_stream", "--prompt", "to be", "--max-new-tokens", "30", "--top-k", "9")
    text = ask(*asked, "--seed", "1")["text"]
    assert ask(*asked, "--seed", "1")["text"] == text
    assert ask(*asked, "--seed", "2")["text"] != text
    assert ask(*asked, "--seed", "1", "--stop", text[5:7])["text"] == text[: text.index(text[5:7])]
    assert ask(*asked, "--temperature", "0")["text"] == ask(*asked, "--temperature", "0")["text"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("image", (), "--image: missing; a model of kind classification is asked with it"),
        ("image", ("--image", "x.png", "--prompt", "to"), "--prompt: not for kind classification"),
        ("image", ("--image", "absent.png"), "absent.png: No such file"),
        ("audio", ("--audio", "/dev/null"), "/dev/null: no audio that can be decoded"),
        ("regression", ("--features", "/dev/null"), "/dev/null: no features that can be decoded"),
        ("causal_lm_stream", ("--prompt", "to", "--temperature", "-1"), "--temperature = -1.0"),
        ("causal_lm_stream", ("--prompt", "to", "--top-p", "0"), "--top-p = 0.0"),
        ("masked_lm_rows", ("--text", "to be"), "--text: has no <mask> to fill"),
        ("masked_lm_rows", ("--text", "<mask>", "--candidates", "0"), "--candidates = 0: at least"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    ask: Callable[..., dict[str, Any]], name: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises((ConfigError, DataError)) as refused:
        ask(name, *arguments)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_features_without_their_cache_are_refused(
    folder_of: FolderOf,
    bundle_of: BundleOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    array = str(bundle_of("regression") / "selftest/0.npy")
    with pytest.raises(ConfigError, match="missing, it holds the statistics of the features"):
        call(["predict", "any", "--model", str(folder_of("regression")), "--features", array])
