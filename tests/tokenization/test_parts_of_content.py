"""Templates that take content as parts: which form they get, and where their images stand."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from plumbline.data.turns import IMAGE_ID, IMAGE_MARK, Turn, as_parts
from plumbline.tokenization.chat_checkpoint import IMAGE_TEXTS, read_chat_format
from plumbline.tokenization.chat_template import ChatError, ChatTemplate, ImageText
from plumbline.tokenization.chat_tokens import ChatEncoder
from plumbline.tokenization.tokenizer import load_tokenizer
from tests.chat_checkpoints import make_bytes
from tests.tokenization.test_chat import BITS, talk
from tests.tokenization.test_shown_images import TALKS, says, shows
from tests.whole_checkpoints import END, SPECIAL, TEMPLATE, make_processor

IMAGE = IMAGE_TEXTS["SmolVLMProcessor"]
BOTH = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}{{ '<image>' }}{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Of the types of Qwen's vision-language models."""
STRINGS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '<end_of_utterance>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_bytes(SPECIAL)


def encoder(
    tokenizer: Tokenizer, source: str = TEMPLATE, image: ImageText | None = IMAGE
) -> ChatEncoder:
    return ChatEncoder(ChatTemplate(source, {}, image), tokenizer)


def written(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Ids as a text, U+FFFC for an image."""
    pieces, piece = list[str](), list[int]()
    for token in [*ids, IMAGE_ID]:
        if token == IMAGE_ID:
            pieces.append(tokenizer.decode(piece, skip_special_tokens=False))
            piece = []
        else:
            piece.append(token)
    return IMAGE_MARK.join(pieces)


SHOWN = f"<fake_token_around_image><global-img>{IMAGE_MARK}<fake_token_around_image>"


def test_an_image_gets_what_its_processor_puts_around_it(tokenizer: Tokenizer) -> None:
    turns = [shows(f"{IMAGE_MARK}red or{IMAGE_MARK}?"), says("red"), shows("So?"), says("so")]
    found = encoder(tokenizer).encode(turns)
    assert written(tokenizer, found.ids) == (
        f"<|im_start|>User:{SHOWN}red or{SHOWN}?{END}\nAssistant: red{END}\n"
        f"User: So?{END}\nAssistant: so{END}\n"
    )
    assert [written(tokenizer, found.ids[a:b]) for a, b in found.answers] == [
        f" red{END}",
        f" so{END}",
    ]
    assert found.ids.count(tokenizer.token_to_id("<global-img>")) == 2


@pytest.mark.parametrize("which", TALKS)
def test_ids_are_those_of_the_processor_where_an_image_is_one_token(
    tokenizer: Tokenizer, which: str
) -> None:
    processor = make_processor("idefics3")
    turns = TALKS[which]
    messages: list[dict[str, Any]] = [as_parts(turn) for turn in turns]
    for message in messages:
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    text = processor.apply_chat_template(messages, tokenize=False)
    expanded = text.replace("<image>", SHOWN.replace(IMAGE_MARK, "<image>"))
    theirs = processor.tokenizer(expanded)["input_ids"]
    found = encoder(tokenizer).encode(turns)
    image = tokenizer.token_to_id("<image>")
    assert [image if token == IMAGE_ID else token for token in found.ids] == theirs
    assert encoder(tokenizer).misread(turns, found) is None


def test_whatever_is_said_is_learnt_and_is_behind_its_prompt(tokenizer: Tokenizer) -> None:
    draw, own = random.Random(0), encoder(tokenizer)
    bits = [*BITS, *SPECIAL, IMAGE_MARK, "Assistant:", "User: "]
    special = {tokenizer.token_to_id(name) for name in SPECIAL}
    harmless = own.encode([shows(f"a{IMAGE_MARK}b"), says("c"), shows("d"), says("e")]).ids
    for _ in range(200):
        said = ["".join(draw.choices(bits, k=draw.randint(0, 6))) for _ in range(5)]
        asked: Turn = {"role": "user", "content": f"{said[0]}{IMAGE_MARK}{said[1]}"}
        asked["images"] = [said[0].count(IMAGE_MARK)]  # those that were typed are text
        turns = [asked, says(said[2]), {"role": "user", "content": said[3]}, says(said[4])]
        found = own.encode(turns)
        assert own.misread(turns, found) is None
        assert found.ids.count(IMAGE_ID) == 1
        assert sum(i in special for i in found.ids) == sum(i in special for i in harmless)
        for at, (start, _) in zip((1, 3), found.answers, strict=True):
            prompt = own.encode(turns[:at], prompt=True).ids
            assert found.ids[: len(prompt)] == prompt
            assert len(prompt) <= start


def test_a_template_of_both_forms_writes_images_where_that_is_known(tokenizer: Tokenizer) -> None:
    turns = [shows(f"{IMAGE_MARK}red?"), says("red")]
    known, unknown = (encoder(tokenizer, BOTH, image) for image in (IMAGE, None))
    assert SHOWN in written(tokenizer, known.encode(turns).ids)
    assert written(tokenizer, unknown.encode(turns).ids).startswith(
        f"<|im_start|>user\n{IMAGE_MARK}red?"
    )
    texts = talk("What is one plus one?", "Two.")
    assert known.encode(texts) == unknown.encode(texts)


def test_a_template_of_texts_shows_an_image_where_its_mark_is(tokenizer: Tokenizer) -> None:
    """Such as `tokenize.chat_template` in place of a whole model's own."""
    turns = [shows(f"a {IMAGE_MARK} b"), says("red")]
    found = encoder(tokenizer, STRINGS).encode(turns)
    assert written(tokenizer, found.ids).startswith(f"user: a {IMAGE_MARK} b{END}")


def test_without_a_known_processor_texts_are_read_and_images_refused(tokenizer: Tokenizer) -> None:
    own = encoder(tokenizer, image=None)
    assert own.encode(talk("one", "Two.")) == encoder(tokenizer).encode(talk("one", "Two."))
    with pytest.raises(ChatError, match=r"how the processor .* is not known; set tokenize\.chat_"):
        own.encode([shows(IMAGE_MARK), says("red")])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("'<image>'", "'<image><image>'"), "does not write <image> once for each image"),
        (("'<image>'", "''"), "does not write <image> once for each image"),
        (("<|im_start|>", "<image>"), "does not write <image> once for each image"),
        (("{{line['text']}}", "{{line['text'] | upper}}"), "depends on their words"),
    ],
)
def test_a_template_that_writes_images_otherwise_is_refused(
    tokenizer: Tokenizer, change: tuple[str, str], said: str
) -> None:
    source = TEMPLATE.replace(*change)
    assert source != TEMPLATE
    with pytest.raises(ChatError, match=re.escape(said)):
        encoder(tokenizer, source).encode([shows(f"a{IMAGE_MARK}"), says("red")])


def test_a_tokenizer_without_the_tokens_around_an_image_is_refused() -> None:
    few = make_bytes([name for name in SPECIAL if name != "<global-img>"])
    with pytest.raises(ChatError, match="the tokenizer has no <global-img>, which the processor"):
        encoder(few)


def old_layout(folder: Path) -> None:
    """As releases before the fifth wrote it: the template among settings, in two places."""
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    old = json.dumps({"chat_template": template})
    (folder / "chat_template.json").write_text(old, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) | {"chat_template": STRINGS}
    file.write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize("change", [lambda folder: None, old_layout])
@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_the_processor_in_a_folder_says_how_images_are_written(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    make_processor(name).save_pretrained(tmp_path)
    change(tmp_path)
    chat = read_chat_format(tmp_path, None)
    assert (chat["template"], chat["image"]) == (TEMPLATE, IMAGE)
    own = ChatEncoder(
        ChatTemplate(chat["template"], chat["tokens"], chat["image"]), load_tokenizer(tmp_path)
    )
    assert own.end_token == END
