"""From turns to token ids, and which of these the assistant's answers are.

Which positions carry loss follows from the turns and where the template puts them, never from an
id. A copy of this file runs in bundles.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from plumbline.data.turns import IMAGE_ID, Turn
from plumbline.tokenization.chat_template import ChatError, ChatTemplate, Place, Rendered


class Encoded(NamedTuple):
    """Turns as the model reads them."""

    ids: list[int]
    """`IMAGE_ID` for each image: how many tokens it takes, ids do not say."""
    answers: list[Place]
    """Of each turn of the assistant, the tokens [start, stop) to learn: what it says, and the
    special token that ends it."""


class _Cut(NamedTuple):
    """Where a text is cut, and what stands there."""

    start: int
    stop: int
    name: str
    """Of a special token; "": an image that is none."""
    id: int


class ChatEncoder:
    """Makes token ids of turns as a tokenizer does of a template's text, with one difference.

    Special tokens are those that the template writes. One that somebody typed is plain text.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        """Encode with a copy of `tokenizer`.

        Raises:
            ChatError: the template ends an answer with no special token: none would ever end; or
                the tokenizer lacks what stands around an image.
        """
        self._template = template
        # Copies: the flag is the tokenizer's own, and whoever else has it has set theirs.
        stored = tokenizer.to_str()
        self._special, self._plain = (_copy(stored, plain=plain) for plain in (False, True))
        # SentencePiece puts a blank in front of a text, but not of what follows a special token.
        scheme = '"prepend_scheme":"{}"'
        within = stored.replace(scheme.format("first"), scheme.format("never"))
        self._within = _copy(within, plain=True)
        self._names = {
            token.content: number
            for number, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._before_answer = template.gap_before_answer()
        behind = template.gap_behind_answer()
        end = self._pattern.search(behind)
        if end is None or behind[: end.start()].strip():
            raise ChatError(
                "the chat template ends an answer with no special token of the tokenizer, so that "
                "nothing would end what a model writes"
            )
        self.end_token = end[0]
        """The special token that ends an answer."""
        self.end = self._names[end[0]]
        """Its id."""
        self._image = self._name_of_image(tokenizer)

    def _name_of_image(self, tokenizer: Tokenizer) -> str:
        """The special token that an image is to its neighbours; "": none."""
        image = self._template.image
        if image is None:
            return ""
        for name in (*image["before"], *image["behind"]):
            if tokenizer.token_to_id(name) is None:
                raise ChatError(
                    f"the tokenizer has no {name}, which the processor of this checkpoint puts "
                    "beside an image"
                )
        return image["placeholder"] if image["placeholder"] in self._names else ""

    def encode(self, turns: Sequence[Turn], *, prompt: bool = False) -> Encoded:
        """Make ids of turns, and say which of them are the assistant's.

        With `prompt`, they go on up to where the next answer begins.

        Raises:
            ChatError: as `ChatTemplate.locate`, or another thing than white space and a special
                token stands behind an answer.
        """
        rendered = self._template.locate(turns, prompt=prompt)
        regions = self._regions(turns, rendered)
        images = [_Cut(*place, self._image, IMAGE_ID) for place in rendered.images]
        cuts = sorted([*self._find_specials(rendered), *images])
        ids, at = self._encode_pieces(rendered.text, cuts, {start for start, _ in regions})
        return Encoded(ids, [(at[start], at[stop]) for start, stop in regions])

    def misread(self, turns: Sequence[Turn], encoded: Encoded) -> tuple[str, str] | None:
        """Decode what is to be learnt, and compare it with what the assistant says.

        Returns:
            The first answer as it should be and as it is; None where all are right.
        """
        rendered = self._template.locate(turns)
        said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        places = zip(said, self._regions(turns, rendered), encoded.answers, strict=True)
        for content, (first, last), (start, stop) in places:
            written = rendered.text[first:last].removesuffix(self.end_token)
            # What a tokenizer cannot keep, such as case, it loses on both sides.
            ids = _ids(self._plain, written)
            expected = self._plain.decode(ids, skip_special_tokens=False) + self.end_token
            found = self._plain.decode(encoded.ids[start:stop], skip_special_tokens=False)
            # Some decoders put spaces between tokens.
            same = expected.replace(" ", "") == found.replace(" ", "")
            if not same or written.strip() != content.strip():
                return content + self.end_token, found
        return None

    def _find_specials(self, rendered: Rendered) -> list[_Cut]:
        """The special tokens that the template wrote."""
        return [
            _Cut(*found.span(), found[0], self._names[found[0]])
            for start, stop in rendered.gaps
            for found in self._pattern.finditer(rendered.text, start, stop)
        ]

    def _regions(self, turns: Sequence[Turn], rendered: Rendered) -> list[Place]:
        """The characters to learn of each answer."""
        specials = self._find_specials(rendered)
        return [
            self._region(rendered, place, specials)
            for turn, place in zip(turns, rendered.contents, strict=True)
            if turn["role"] == "assistant"
        ]

    def _region(self, rendered: Rendered, content: Place, specials: Sequence[_Cut]) -> Place:
        """The characters to learn of an answer, its end token with it."""
        start, stop = content
        end = next((found for found in specials if found.start >= stop), None)
        if end is None or rendered.text[stop : end.start].strip():
            raise ChatError(
                "the chat template ends one of the answers with no special token of the tokenizer"
            )
        # Where a template has white space in front of an answer that its prompt does not have, the
        # model writes that too.
        gap = next(rendered.text[a:b] for a, b in rendered.gaps if b == start)
        if self._before_answer is not None and gap.startswith(self._before_answer):
            between = gap.removeprefix(self._before_answer)
            start -= 0 if between.strip() else len(between)
        return start, end.stop

    def _encode_pieces(
        self, text: str, cuts: Sequence[_Cut], starts: set[int]
    ) -> tuple[list[int], dict[int, int]]:
        """Ids of a text, and at which of them each of `starts` and each special token's end is.

        A tokenizer cuts a text at its special tokens and makes ids of the pieces one by one; images
        are such tokens, too.
        """
        ids: list[int] = []
        at: dict[int, int] = {}
        position, before = 0, ""
        for found in (*cuts, None):
            stop, behind = (found.start, found.name) if found else (len(text), "")
            inner = next((start for start in starts if position < start < stop), None)
            first = position == 0
            piece = self._encode_piece(text[position:stop], before, behind, first=first)
            if position in starts:
                at[position] = len(ids)
            if inner is not None:
                head = self._encode_piece(text[position:inner], before, "", first=first)
                if piece[: len(head)] != head:
                    # A token would lie on both sides, and no prompt ends within a token.
                    piece = head + _ids(self._within, text[inner:stop])
                at[inner] = len(ids) + len(head)
            ids += piece
            if stop in starts:
                at[stop] = len(ids)
            if found:
                ids.append(found.id)
                position, before = found.stop, found.name
                at[position] = len(ids)
        return ids, at

    def _encode_piece(self, text: str, before: str, behind: str, *, first: bool) -> list[int]:
        """Ids of what stands between two special tokens, "" for an image or an end of the text."""
        if not text:
            return []
        joined = before + text + behind
        typed = self._pattern.search(joined, len(before), len(before + text))
        if not typed and (before or first):
            # Between its neighbours, since some tokenizers strip white space beside them.
            ids = _ids(self._special, joined)
            inner = slice(bool(before), len(ids) - bool(behind))
            around = [self._names[name] for name in (before, behind) if name]
            if ids[: inner.start] + ids[inner.stop :] == around:
                return ids[inner]
        return _ids(self._plain if first else self._within, text)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    # The fast form leaves out where each token began, which costs more than the ids.
    (encoded,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    ids: list[int] = encoded.ids
    return ids


def _copy(stored: str, *, plain: bool) -> Tokenizer:
    copy = Tokenizer.from_str(stored)
    copy.encode_special_tokens = plain
    copy.no_truncation()
    copy.no_padding()
    return copy
