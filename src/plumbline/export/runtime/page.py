"""The page that the server of this bundle shows, and the stored samples that one can pick there."""

import base64
import hashlib
import json
import re
from pathlib import Path

from .guard import BundleError, check_file, read_digests

PAGE = "runtime/page.html"
SAMPLES = "selftest/selftest.json"
GALLERY = "gallery/"
"""What lies there is read when it is asked for: it may be much."""
TYPES = {".png": "image/png", ".wav": "audio/wav"}
"""Ending of a stored file -> what a browser is told that it is; all else is bytes."""


class Page:
    """What GET finds beside /health: the page, a list of samples, and their files."""

    def __init__(self, folder: Path) -> None:
        """Read all of it; none of it changes while the server runs.

        Raises:
            BundleError: a file is missing or damaged.
        """
        self._folder, self._digests = folder, read_digests(folder)
        digests = self._digests
        html = check_file(folder, digests, PAGE).read_bytes()
        try:
            stored = json.loads(check_file(folder, digests, SAMPLES).read_bytes())
            samples = [{"request": s["request"], "answer": s["answer"]} for s in stored["answers"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{SAMPLES}: not as exported ({type(error).__name__})") from None
        self.policy = _policy(html.decode())
        self._found = {"/": ("text/html; charset=utf-8", html)}
        for sample in samples:
            sample["request"] = {
                name: self._keep(folder, digests, value)
                for name, value in sample["request"].items()
            }
        listed = json.dumps(samples, allow_nan=False).encode() + b"\n"
        self._found["/samples"] = ("application/json", listed)

    def find(self, path: str) -> tuple[str, bytes] | None:
        """Type and bytes of what lies at a path; None where nothing does.

        Raises:
            BundleError: the file is missing or has changed.
        """
        name = path.removeprefix("/")
        if name.startswith(GALLERY) and name in self._digests:
            kind = TYPES.get(Path(name).suffix, "application/octet-stream")
            return kind, check_file(self._folder, self._digests, name).read_bytes()
        return self._found.get(path)

    def _keep(self, folder: Path, digests: dict[str, str], value: object) -> object:
        """A value of a request, names of stored files as the page asks for them."""
        if isinstance(value, list):
            return [self._keep(folder, digests, each) for each in value]
        if not isinstance(value, str) or value not in digests or "/" not in value:
            return value
        name = value.partition("/")[2]
        kind = TYPES.get(Path(name).suffix, "application/octet-stream")
        self._found[f"/samples/{name}"] = kind, check_file(folder, digests, value).read_bytes()
        return name


def _policy(html: str) -> str:
    """What the page may do: run its own script, and ask this server alone."""
    allowed = {}
    for tag in ("script", "style"):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [hashlib.sha256(text.encode()).digest() for text in found]
        allowed[tag] = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
