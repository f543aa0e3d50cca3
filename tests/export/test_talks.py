"""A bundle of a vision-language model is asked by turns that show images."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.data.turns import IMAGE_MARK, Turn, as_parts, make_turn, show_places
from plumbline.export.plan import BundleSource
from plumbline.export.runtime.files import InputError
from plumbline.export.runtime.worker import read_request
from plumbline.kinds.vlm.features import encode_images
from plumbline.kinds.vlm.talks import Talk, answer_logits, answer_talks, make_prompt
from tests.export.opening import model_of
from tests.tiny import picture

BundleOf = Callable[..., Path]
SourceOf = Callable[[str], BundleSource[Any, Any]]

ONE, OTHER = picture(1), picture(2)
TURNS: list[Turn] = [
    {"role": "system", "content": "be noble"},
    {"role": "user", "content": f"is {IMAGE_MARK} or {IMAGE_MARK} to be?", "images": [0, 1]},
    {"role": "assistant", "content": "to be"},
    {"role": "user", "content": f"not {IMAGE_MARK}{IMAGE_MARK} the <|end|>?", "images": [0, 1]},
]
MESSAGES = [as_parts(turn) for turn in TURNS]
IMAGES = [ONE, OTHER, OTHER, ONE]


def of_checkpoint(source: BundleSource[Any, Any], numbers: list[int], tokens: int) -> Any:
    """The answer of the stored model, and its logits [tokens, vocab] along it."""
    stored, spec = source.stored, source.stored.spec
    pixels = np.stack([np.asarray(_pixels(number)) for number in numbers])
    features = encode_images(
        stored.model.image_encoder,
        pixels,
        spec.normalization,
        spec.image_encoder.image_size,
        torch.device("cpu"),
    )
    ids = make_prompt(spec, stored.text, stored.model.image_encoder.tokens, TURNS)
    talk = Talk(ids, list(range(len(numbers))))
    eos = spec.special_ids.eos
    (said,) = answer_talks(stored.model, features, [talk], eos=eos, max_new_tokens=tokens)
    whole = Talk([*ids, *said, eos], talk.images)
    logits = answer_logits(stored.model, features, [whole], len(said) + 1)[0]
    return stored.text.decode(said), logits.numpy()


def _pixels(number: int) -> Any:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(picture(number)))


def test_turns_and_images_become_the_answer_of_the_checkpoint(
    source_of: SourceOf, bundle_of: BundleOf
) -> None:
    source, model = source_of("vlm_turns"), model_of(bundle_of("vlm_turns"))
    *_, ids = model.task.inputs({"messages": MESSAGES, "images": IMAGES})
    text, more = model.contract["text"], model.contract["decoder"]["image_tokens"] - 1
    room = text["max_positions"] - ids.shape[1] - len(IMAGES) * more
    assert room < text["max_new_tokens"]  # the answer gets what the conversation leaves
    expected, _ = of_checkpoint(source, [1, 2, 2, 1], room)
    found = model.predict({"messages": MESSAGES, "images": IMAGES})
    assert found["answer"] == expected
    assert 0 < found["confidence"] <= 1


@pytest.mark.parametrize("numbers", [[1, 2, 2, 1], [2, 1, 2, 1]])
def test_the_graph_gives_the_logits_of_the_checkpoint_in_any_order_of_images(
    source_of: SourceOf, bundle_of: BundleOf, numbers: list[int]
) -> None:
    source, model = source_of("vlm_turns"), model_of(bundle_of("vlm_turns"))
    request = {"messages": MESSAGES, "images": [picture(number) for number in numbers]}
    *_, ids = model.task.inputs(request)
    _, logits = model.task.begin(request["images"], ids[0].tolist())
    _, known = of_checkpoint(source, numbers, 4)
    np.testing.assert_allclose(logits[0], known[0], rtol=1e-4, atol=2e-4)
    if numbers != [1, 2, 2, 1]:
        _, others = of_checkpoint(source, [1, 2, 2, 1], 4)
        assert np.abs(others[0] - known[0]).max() > 1e-2


def test_a_question_is_a_turn_behind_its_images(bundle_of: BundleOf) -> None:
    model = model_of(bundle_of("vlm_turns"))
    for images in ([], [ONE], [ONE, OTHER]):
        parts = [
            part for _ in images for part in ({"type": "image"}, {"type": "text", "text": "\n"})
        ]
        turn = {"role": "user", "content": [*parts, {"type": "text", "text": "to be?"}]}
        by_turns = model.predict({"messages": [turn], "images": images})
        assert model.predict({"question": "to be?", "images": images}) == by_turns
    assert model.predict({"question": "to be?"}) == model.predict(
        {"question": "to be?", "images": []}
    )


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "messages, or question: one of the two"),
        ({"messages": MESSAGES, "question": "a"}, "messages, or question: one of the two"),
        ({"messages": MESSAGES}, "images: 0, where messages have 4 places of them"),
        ({"messages": MESSAGES, "images": IMAGES[1:]}, "images: 3, where messages have 4 places"),
        ({"messages": MESSAGES[:3], "images": IMAGES[:2]}, "turn 4: assistant, where user"),
        ({"question": "a", "images": [ONE, b"no image"]}, "images: image 2: cannot be decoded"),
        ({"question": "a", "images": "a"}, "images: not of type files"),
        ({"question": "a", "images": ["a"]}, "images: not a list of files"),
        ({"question": " "}, "question: empty"),
        ({"question": "a", "images": [ONE] * 30}, "tokens with images, the model takes 96"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    bundle_of: BundleOf, request_: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        model_of(bundle_of("vlm_turns")).predict(request_)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_script_takes_several_images_and_repeats_its_self_test(
    bundle_of: BundleOf, tmp_path: Path
) -> None:
    folder = bundle_of("vlm_turns")
    for name, image in (("one.png", ONE), ("other.png", OTHER)):
        (tmp_path / name).write_bytes(image)

    def run(*flags: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-I", str(folder / "inference.py"), *flags],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    assert run("--selftest")["selftest"] == "ok"
    names = ["one.png", "other.png", "other.png", "one.png"]
    known = model_of(folder).predict({"messages": MESSAGES, "images": IMAGES})
    flags = [flag for name in names for flag in ("--images", name)]
    assert run(*flags, "--messages", json.dumps(MESSAGES)) == known
    line = json.dumps({"messages": MESSAGES, "images": names})
    (tmp_path / "requests.jsonl").write_text(line, encoding="utf-8")
    assert run("--batch", "requests.jsonl") == known


def test_a_server_takes_images_as_a_list_of_base64(bundle_of: BundleOf) -> None:
    model = model_of(bundle_of("vlm_turns"))
    coded = [base64.b64encode(image).decode() for image in IMAGES]
    body = json.dumps({"messages": MESSAGES, "images": coded}).encode()
    request = read_request(body, model.task.fields)
    assert request["images"] == IMAGES
    for wrong in (["?"], [7]):
        with pytest.raises(InputError, match="images: no base64"):
            read_request(json.dumps({"images": wrong}).encode(), model.task.fields)
    for other in (7, "", {"QUJD": 1}):
        request = read_request(json.dumps({"images": other}).encode(), model.task.fields)
        with pytest.raises(InputError, match="images: not of type files"):
            model.predict({"question": "a", **request})


def test_a_stored_sample_has_each_of_its_images(bundle_of: BundleOf) -> None:
    folder = bundle_of("vlm_turns")
    stored = json.loads((folder / "selftest/selftest.json").read_text(encoding="utf-8"))
    images = [sample["request"].get("images", []) for sample in stored["answers"]]
    assert any(images)
    for names in images:
        assert all((folder / name).is_file() for name in names)
        assert len(names) == len(set(names))


def test_parts_are_the_same_turn(bundle_of: BundleOf) -> None:
    for at, (turn, parts) in enumerate(zip(TURNS, MESSAGES, strict=True), 1):
        assert make_turn(at, parts) == turn
    assert show_places(TURNS[1]) == "is <image> or <image> to be?"
