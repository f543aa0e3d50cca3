"""From turns to text by a model's own chat template, and which characters each turn says.

A template is code that came with a checkpoint: it runs in Jinja's sandbox, with the options that
transformers renders it with. It says nothing of which characters are whose, so it is rendered a
second time with a mark in place of what each turn says. A copy of this file runs in bundles.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from plumbline.data.turns import Role, Turn

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


class Rendered(NamedTuple):
    """The text that a template makes of turns."""

    text: str
    contents: tuple[Place, ...]
    """Of each turn, the characters of what it says."""
    gaps: tuple[Place, ...]
    """The characters between these, in the order of the text: what the template wrote."""


class _Layout(NamedTuple):
    """What a template writes around turns of given roles."""

    order: tuple[int, ...]
    """Turns as the text has them."""
    gaps: tuple[str, ...]
    """Texts before, between and behind them."""
    edges: tuple[tuple[str, str], ...]
    """Of each turn, the white space at both ends of what it says that the template has left."""


_MARK = re.compile("\uf8f0([0-9]+)\uf8f1")


class ChatTemplate:
    """A chat template that is compiled."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        """Compile it.

        Args:
            source: of the template, in Jinja.
            variables: what it may name beside the turns, such as `bos_token`.

        Raises:
            ChatError: it is no template.
        """
        self._variables = dict(variables)
        try:
            self._template = _compile(source)
        except _FAILURES as error:
            raise _failed(error) from None
        self._layout = lru_cache(4096)(self._find_layout)

    def render(self, turns: Sequence[Turn], *, prompt: bool = False) -> str:
        """Write turns; with `prompt`, up to where the assistant's next answer begins.

        Raises:
            ChatError: the template refuses them, or fails.
        """
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
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
        text = self.render(turns, prompt=prompt)
        cut = [_edges(turn["content"]) for turn in turns]
        roles = tuple(turn["role"] for turn in turns)
        layout = self._layout(roles, tuple((lead, trail) for lead, _, trail in cut), prompt)
        contents: list[Place] = [(0, 0)] * len(turns)
        gaps: list[Place] = []
        written = ""
        for turn, gap in zip((*layout.order, -1), layout.gaps, strict=True):
            gaps.append((len(written), len(written) + len(gap)))
            written += gap
            if turn >= 0:
                (lead, trail), core = layout.edges[turn], cut[turn][1]
                contents[turn] = len(written), len(written) + len(lead + core + trail)
                written += lead + core + trail
        if written != text:
            raise ChatError(
                "the chat template writes more or less than these turns say: what it writes "
                "depends on their words; set tokenize.chat_template to one that takes them as "
                "they are"
            )
        return Rendered(text, tuple(contents), tuple(gaps))

    def gap_before_answer(self) -> str | None:
        """What stands between a first turn of the user and where an answer is to begin."""
        try:
            return self._layout(("user",), (("", ""),), True).gaps[-1]
        except ChatError:
            return None

    def gap_behind_answer(self) -> str:
        """What stands behind the last turn of the assistant."""
        return self._layout(("user", "assistant"), (("", ""), ("", "")), False).gaps[-1]

    def _find_layout(
        self, roles: tuple[Role, ...], edges: tuple[tuple[str, str], ...], prompt: bool
    ) -> _Layout:
        marks = [f"\uf8f0{number}\uf8f1" for number in range(len(roles))]
        order, gaps = self._render_marks(roles, marks, prompt)
        if not any(lead or trail for lead, trail in edges):
            return _Layout(order, gaps, edges)
        # A mark between the same white space is trimmed as what it stands for is.
        wide = [f"{lead}{mark}{trail}" for mark, (lead, trail) in zip(marks, edges, strict=True)]
        same_order, wide_gaps = self._render_marks(roles, wide, prompt)
        kept = [["", ""] for _ in roles]
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
        self, roles: tuple[Role, ...], marks: Sequence[str], prompt: bool
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Which marks stand where, and the texts between them."""
        turns: list[Turn] = [
            {"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)
        ]
        pieces = _MARK.split(self.render(turns, prompt=prompt))
        order = tuple(map(int, pieces[1::2]))
        if sorted(order) != list(range(len(roles))):
            lost = sorted(set(range(len(roles))) - set(order))
            what = f"leaves turn {lost[0] + 1} of {', '.join(roles)} out" if lost else "repeats one"
            raise ChatError(f"the chat template does not write each turn once: it {what}")
        return order, tuple(pieces[0::2])


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
