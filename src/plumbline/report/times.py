"""How long the stages took, as a picture that lies beside the page and is no output of a stage."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from plumbline.files import STATE_DIR, atomic_write
from plumbline.report.figures import number
from plumbline.text import one_line
from plumbline.tracking.past_runs import PastRun, newest_runs

FILE = STATE_DIR / "stage_times.svg"

_WIDTH, _ROW = 400, 36
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#191c20}.m{fill:#5a616a;font-size:12px}"
    ".b{fill:#1d5fb8}.t{fill:#e6e8e6}@media(prefers-color-scheme:dark){text{fill:#e8eaec}"
    ".m{fill:#9ba4ad}.b{fill:#7db0f5}.t{fill:#2a3036}}"
)


def write_times(root: Path, stages: Sequence[str]) -> None:
    """Draw the newest good run of each stage.

    Args:
        root: the project.
        stages: with their keys, in the order in which they are drawn.
    """
    runs = newest_runs(root, status="ok")
    atomic_write(root / FILE, draw_times({name: runs[name] for name in stages if name in runs}))


def draw_times(runs: Mapping[str, PastRun]) -> str:
    """An SVG with a bar a stage, its seconds and when it ran (UTC)."""
    longest = max((run.seconds or 0.0 for run in runs.values()), default=0.0)
    height = _ROW * len(runs) + 24
    rows = []
    for at, (name, run) in enumerate(runs.items()):
        seconds, y = run.seconds or 0.0, _ROW * at
        width = _WIDTH * seconds / longest if longest else 0.0
        said = f"{number(round(seconds, 1))} s"
        rows.append(
            f'<text x="0" y="{y + 14}">{html.escape(one_line(name))}</text>'
            f'<text x="{_WIDTH}" y="{y + 14}" text-anchor="end">{said}'
            f'<tspan class="m" dx="8">{_when(run)}</tspan></text>'
            f'<rect class="t" x="0" y="{y + 20}" width="{_WIDTH}" height="6" rx="3"/>'
            f'<rect class="b" x="0" y="{y + 20}" width="{width:.1f}" height="6" rx="3"/>'
        )
    total = number(round(sum(run.seconds or 0.0 for run in runs.values()), 1))
    what = f"{total} s in all; of each stage the newest good run" if runs else "no run record here"
    rows.append(f'<text class="m" x="0" y="{height - 7}">{what}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}"><style>{_STYLE}</style>{"".join(rows)}</svg>\n'
    )


def _when(run: PastRun) -> str:
    """The time that the name of a pipeline run begins with, `20261127-232953-...`."""
    day, _, rest = run.pipeline.partition("-")
    hour = rest[:6]
    if not (len(day) == 8 and day.isdigit() and len(hour) == 6 and hour.isdigit()):
        return ""
    return f"{day[:4]}-{day[4:6]}-{day[6:]} {hour[:2]}:{hour[2:4]}"
