"""What tests look at a page with."""

from html.parser import HTMLParser

ATTACK = "<img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Outline(HTMLParser):
    """Tags of a page; in HTML proper every one that is opened must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.broken = False
        """A word goes on behind the tag that allows a line break in it."""
        self.rows: list[list[str]] = []
        """Texts of the cells of all table rows."""
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.broken = tag == "wbr"
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        self.text += f"{words} "
        if {"th", "td"} & set(self.open) and words:
            between = "" if self.broken else " "
            self.rows[-1][-1] = f"{self.rows[-1][-1]}{between}{words}".strip()
        self.broken = False

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.tags if "id" in attrs]
