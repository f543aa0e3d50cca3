"""Text of others on its way out: to a terminal or a log, and into the cells of a CSV file.

Labels, ids, texts, names of files and errors that quote them come from data. What of them would act
in place of being read is written out here, and nowhere else.
"""

import re

# Control characters but for tab and line feed, what separates lines, what turns the direction of
# text or hides in it, and halves of surrogate pairs. Joiners within words and emoji stay.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CREDENTIALS = re.compile(r"(\w://)[^/@\s]*:[^/@\s]*@")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def shown(text: str) -> str:
    r"""Write out what would act on a terminal or turn a line around: ESC becomes `\u001b`.

    For the eye: a text that holds the six characters `\u001b` looks the same. The form is that of
    JSON, so that a JSON text stays JSON with the same value.
    """
    return _ACTING.sub(_escape, text)


def one_line(text: str) -> str:
    r"""`shown`, with line feeds as `\n`: what is quoted cannot pass for a line of its own."""
    return shown(text).replace("\n", "\\n")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def without_credentials(text: str) -> str:
    """Leave out what stands before an @ in a URL, as `s3://key:secret@bucket` has it.

    >>> without_credentials("s3://key:secret@bucket/a@b")
    's3://...@bucket/a@b'
    """
    return _CREDENTIALS.sub(r"\1...@", text)


def csv_cell(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would compute, such as `=1+1`.

    A text that begins with an apostrophe gets one as well, so that `from_csv_cell` has the text
    back; a plain number stays one.
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def from_csv_cell(cell: str) -> str:
    """Take the apostrophe away again that `csv_cell` has put before a text."""
    return cell.removeprefix("'")


def finalize(value: object) -> object:
    """What a template prints: a text through `shown`, markup and all else as it is."""
    return shown(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
