"""What an import has found, as text for a terminal."""

from collections.abc import Iterator, Sequence

from plumbline.importing.importer import Import
from plumbline.text import one_line

CELL_CHARS = 40


def shown_cell(value: object) -> str:
    """A cell in one line: text, or how many bytes it is."""
    if value is None:
        return "-"
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return f"{len(value):,} bytes"
        printable = sum(character.isprintable() or character.isspace() for character in text)
        if printable < 0.95 * len(text):
            return f"{len(value):,} bytes"
        value = text
    text = one_line(str(value))
    return text if len(text) <= CELL_CHARS else f"{text[: CELL_CHARS - 3]}..."


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table in columns of equal width."""
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()


def describe(found: Import) -> Iterator[str]:
    """Lines: what was taken for what, the first rows, what is rejected, what is proposed."""
    draft, trial = found.draft, found.trial
    about = "" if draft.exact else "about "
    yield one_line(f"{draft.path.as_posix()}: {draft.layout}, {about}{draft.rows:,} rows")
    yield ""
    rows = [(role.role, one_line(role.field), one_line(role.reason)) for role in draft.roles]
    yield from text_table(("column", "taken from", "why"), rows)
    for note in draft.notes:
        yield f"  {one_line(note)}"
    if draft.unused:
        yield f"  not used: {one_line(', '.join(draft.unused))}"
    yield ""
    names = [name for name in trial.first[0] if any(row[name] is not None for row in trial.first)]
    first = [[shown_cell(row[name]) for name in names] for row in trial.first]
    yield f"the first {len(first)} rows:"
    yield from text_table(names, first)
    yield ""
    yield from _verdict(found)


def _verdict(found: Import) -> Iterator[str]:
    trial = found.trial
    tried = f"all {trial.rows:,} rows" if trial.whole else f"the first {trial.rows:,} rows"
    clean = ", ".join(f"{split} {count:,}" for split, count in sorted(trial.splits.items()))
    yield f"validation of {tried}: {sum(trial.splits.values()):,} clean ({clean or 'none'})"
    for reason, count in sorted(trial.report["reasons"].items()):
        yield f"  {count:,} rejected: {reason}"
        yield from (f"    {one_line(told)[:120]}" for told in trial.rejected.get(reason, ()))
    for line in trial.said:
        yield f"  {one_line(line)}"
    if found.proposal is not None:
        yield ""
        yield f"task {found.draft.plan.kind}: {found.draft.plan.words}"
        yield f"  for {found.machine}: {found.proposal.words}"
