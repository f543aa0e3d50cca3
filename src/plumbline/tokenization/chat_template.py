"""From turns to text by a model's own chat template, and which characters each turn says.

A template is code that came with a checkpoint: it runs in Jinja's sandbox, with the options that
transformers renders it with. It says nothing of which characters are whose, so it is rendered a
second time with a mark in place of what each turn says. A copy of this file runs in bundles.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, NoReturn, TypedDict

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from plumbline.data.turns import (
    IMAGE_MARK,
    Role,
    Turn,
    cut_at_images,
    find_marks,
    make_parts,
)

SYSTEM, USER, ASSISTANT, END = CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
"""Special tokens of `OWN_TEMPLATE`, which tokenizers have that are trained here on turns."""

OWN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# What a template of somebody else's may raise beside Jinja's own errors, when it computes.
_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)

Place = tuple[int, int]
"""Where a piece begins and ends, in characters of a text or in tokens."""


class ChatError(ValueError):
    """A template cannot be used, at all or for these turns; the text says why in one line."""


class _Generation(Extension):
    """`{% generation %}`, by which some templates mark answers: what it encloses is written."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """See `Extension`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own would escape for HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    # Drawn or of today, the same turns would be other ids tomorrow. Transformers has strftime_now,
    # too: a template that does without it where it is not there writes a date of its own.
    del environment.globals["lipsum"], environment.filters["random"]
    return environment.from_string(source)


class ImageText(TypedDict):
    """How an image stands in a text whose template takes images as parts of what a turn says."""

    placeholder: str
    """What the template writes."""
    before: list[str]
    """Tokens that the model's processor puts in front of those of the image."""
    behind: list[str]


class Rendered(NamedTuple):
    """The text that a template makes of turns, and one `IMAGE_MARK` for each image."""

    text: str
    contents: tuple[Place, ...]
    """Of each turn, the characters of what it says, from its first text to its last."""
    gaps: tuple[Place, ...]
    """The characters between these, in the order of the text: what the template wrote, and what
    stands around an image."""
    images: tuple[Place, ...]
    """The marks that are images, in order."""


class _Form(NamedTuple):
    """What a template is told of a turn beside its words."""

    role: Role
    images: tuple[bool, ...]
    """Of each part of its content, whether it is an image and no text."""


class _Layout(NamedTuple):
    """What a template writes around texts of turns of given forms."""

    order: tuple[int, ...]
    """Texts by number, as they stand."""
    gaps: tuple[str, ...]
    """What is written before, between and behind them."""
    edges: tuple[tuple[str, str], ...]
    """Of each text, the white space at both of its ends that the template has left."""


_MARK = re.compile("\uf8f0([0-9]+)\uf8f1")
_ASKED = _Form("user", (False,))
_ANSWER = _Form("assistant", (False,))


class ChatTemplate:
    """A chat template that is compiled."""

    def __init__(
        self, source: str, variables: Mapping[str, str], image: ImageText | None = None
    ) -> None:
        """Compile it, and find out whether it takes content as a text or as a list of parts.

        Args:
            source: of the template, in Jinja.
            variables: what it may name beside the turns, such as `bos_token`.
            image: how one stands in its text; None: it is not known, or no image is a part.

        Raises:
            ChatError: it is no template.
        """
        self._variables = dict(variables)
        try:
            self._template = _compile(source)
        except _FAILURES as error:
            raise _failed(error) from None
        self._image = image
        self._by_parts = self._takes_parts()
        self._layout = lru_cache(4096)(self._find_layout)

    def _takes_parts(self) -> bool:
        # Some take both. Where it is known how they write an image, they are to write it.
        for by_parts in (True, False) if self._image else (False, True):
            self._by_parts = by_parts
            try:
                self._find_layout((_ASKED, _ANSWER), (("", ""), ("", "")), False)
            except ChatError:
                continue
            return by_parts
        return self._image is not None  # what is wrong with it is said when it is used

    @property
    def image(self) -> ImageText | None:
        """How an image stands in the text; None: as the mark in what its turn says."""
        return self._image if self._by_parts else None

    def render(self, turns: Sequence[Turn], *, prompt: bool = False) -> str:
        """Write turns; with `prompt`, up to where the assistant's next answer begins.

        Raises:
            ChatError: the template refuses them, or fails.
        """
        return self._render([(turn["role"], self._cut(turn)) for turn in turns], prompt)

    def _cut(self, turn: Turn) -> Sequence[str | None]:
        """The parts of a turn, None for an image."""
        if not self._by_parts:
            return [turn["content"]]
        if turn.get("images") and self._image is None:
            raise ChatError(
                "the chat template takes images as parts of a turn, and how the processor of this "
                "checkpoint writes one is not known; set tokenize.chat_template to one of texts"
            )
        return cut_at_images(turn)

    def _render(self, turns: Sequence[tuple[Role, Sequence[str | None]]], prompt: bool) -> str:
        messages = [
            {"role": role, "content": make_parts(parts) if self._by_parts else parts[0]}
            for role, parts in turns
        ]
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=prompt,
                **self._variables,
            )
        except _FAILURES as error:
            raise _failed(error) from None

    def locate(self, turns: Sequence[Turn], *, prompt: bool = False) -> Rendered:
        """Write turns, and say which characters are what they say.

        Raises:
            ChatError: as `render`, or what the template writes depends on what the turns say.
        """
        parts = [self._cut(turn) for turn in turns]
        forms = tuple(
            _Form(turn["role"], tuple(said is None for said in cut))
            for turn, cut in zip(turns, parts, strict=True)
        )
        owners = [turn for turn, cut in enumerate(parts) for said in cut if said is not None]
        texts = [_edges(said) for cut in parts for said in cut if said is not None]
        edges = tuple((lead, trail) for lead, _, trail in texts)
        layout = self._layout(forms, edges, prompt)
        page = _Page(self.image)
        places: dict[int, list[Place]] = {}
        for number, gap in zip((*layout.order, -1), layout.gaps, strict=True):
            page.add_gap(gap)
            if number >= 0:
                (lead, trail), core = layout.edges[number], texts[number][1]
                turn = owners[number]
                shown = () if self._by_parts else turns[turn].get("images", ())
                places.setdefault(turn, []).append(page.add_text(lead + core + trail, shown))
        if "".join(page.raw) != self.render(turns, prompt=prompt):
            raise ChatError(
                "the chat template writes more or less than these turns say: what it writes "
                "depends on their words; set tokenize.chat_template to one that takes them as "
                "they are"
            )
        said = [sorted(places.get(turn, [(0, 0)])) for turn in range(len(turns))]
        contents = tuple((found[0][0], found[-1][1]) for found in said)
        return Rendered(page.text, contents, tuple(page.gaps), tuple(page.images))

    def gap_before_answer(self) -> str | None:
        """What stands between a first turn of the user and where an answer is to begin."""
        try:
            return self._layout((_ASKED,), (("", ""),), True).gaps[-1]
        except ChatError:
            return None

    def gap_behind_answer(self) -> str:
        """What stands behind the last turn of the assistant."""
        return self._layout((_ASKED, _ANSWER), (("", ""), ("", "")), False).gaps[-1]

    def _find_layout(
        self, forms: tuple[_Form, ...], edges: tuple[tuple[str, str], ...], prompt: bool
    ) -> _Layout:
        marks = [f"\uf8f0{number}\uf8f1" for number in range(len(edges))]
        order, gaps = self._render_marks(forms, marks, prompt)
        if not any(lead or trail for lead, trail in edges):
            return _Layout(order, gaps, edges)
        # A mark between the same white space is trimmed as what it stands for is.
        wide = [f"{lead}{mark}{trail}" for mark, (lead, trail) in zip(marks, edges, strict=True)]
        same_order, wide_gaps = self._render_marks(forms, wide, prompt)
        kept = [["", ""] for _ in edges]
        neighbours = zip((-1, *order), (*order, -1), gaps, wide_gaps, strict=True)
        for before, behind, gap, found in neighbours:
            trail = edges[before][1] if before >= 0 else ""
            lead = edges[behind][0] if behind >= 0 else ""
            left = _split_gap(found, gap, trail, lead)
            if left is None or same_order != order:
                raise ChatError("the chat template changes white space within what turns say")
            if before >= 0:
                kept[before][1] = found[: left[0]]
            if behind >= 0:
                kept[behind][0] = found[len(found) - left[1] :]
        return _Layout(order, gaps, tuple((lead, trail) for lead, trail in kept))

    def _render_marks(
        self, forms: tuple[_Form, ...], marks: Sequence[str], prompt: bool
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Which marks stand where, and the texts between them."""
        left = iter(marks)
        turns = [
            (form.role, [None if image else next(left) for image in form.images]) for form in forms
        ]
        pieces = _MARK.split(self._render(turns, prompt))
        order, gaps = tuple(map(int, pieces[1::2])), tuple(pieces[0::2])
        if sorted(order) != list(range(len(marks))):
            lost = sorted(set(range(len(marks))) - set(order))
            what = f"leaves {_turn_of(lost[0], forms)} out" if lost else "repeats one"
            raise ChatError(f"the chat template does not write each turn once: it {what}")
        self._check_images(forms, order, gaps)
        return order, gaps

    def _check_images(
        self, forms: tuple[_Form, ...], order: tuple[int, ...], gaps: tuple[str, ...]
    ) -> None:
        """Refuse a template that does not write each image once, between its neighbours."""
        if self.image is None:
            return
        expected = [0] * len(gaps)
        passed = 0
        for image in (image for form in forms for image in form.images):
            passed += not image
            expected[passed] += image
        written = [gap.count(self.image["placeholder"]) for gap in gaps]
        if written != expected or (any(expected) and list(order) != sorted(order)):
            raise ChatError(
                f"the chat template does not write {self.image['placeholder']} once for each "
                "image, where it stands"
            )


class _Page:
    """The text of turns in the making, with the places of what stands in it."""

    def __init__(self, image: ImageText | None) -> None:
        self.text, self.raw = "", list[str]()
        self.gaps, self.images = list[Place](), list[Place]()
        self._image = image

    def add_gap(self, gap: str) -> None:
        """Add what the template wrote, with what stands around each image of it."""
        self.raw.append(gap)
        first, *others = gap.split(self._image["placeholder"]) if self._image else [gap]
        self.gaps.append(self._add(first))
        for written in others:
            assert self._image is not None, "a gap is cut at images alone"
            self.gaps.append(self._add("".join(self._image["before"])))
            self.images.append(self._add(IMAGE_MARK))
            self.gaps.append(self._add("".join(self._image["behind"])))
            self.gaps.append(self._add(written))

    def add_text(self, said: str, shown: Sequence[int]) -> Place:
        """Add what a turn says; returns where. Of its marks those of numbers `shown` are images."""
        self.raw.append(said)
        start, stop = self._add(said)
        marks = find_marks(said) if shown else []
        self.images += [(start + marks[at], start + marks[at] + 1) for at in shown]
        return start, stop

    def _add(self, text: str) -> Place:
        start = len(self.text)
        self.text += text
        return start, len(self.text)


def _turn_of(text: int, forms: Sequence[_Form]) -> str:
    """In words, the turn that a text is of."""
    owners = [turn for turn, form in enumerate(forms) for image in form.images if not image]
    return f"turn {owners[text] + 1} of {', '.join(form.role for form in forms)}"


def _failed(error: Exception) -> ChatError:
    text = " ".join(str(error).split())[:300]
    if "strftime_now" in text:
        text += " here, since today's date would make other ids of the same turns tomorrow"
    return ChatError(f"the chat template fails: {text or type(error).__name__}")


def _edges(text: str) -> tuple[str, str, str]:
    """White space in front, the rest, white space behind."""
    core = text.strip()
    lead = len(text) - len(text.lstrip())
    return text[:lead], core, text[lead + len(core) :]


def _split_gap(found: str, gap: str, trail: str, lead: str) -> Place | None:
    """How much of the white space `trail` and `lead` stands around `gap` in `found`: the most."""
    for kept in range(len(trail), -1, -1):
        rest = found.removeprefix(trail[:kept])
        if found.startswith(trail[:kept]) and rest.startswith(gap):
            behind = rest.removeprefix(gap)
            if lead.endswith(behind):
                return kept, len(behind)
    return None
