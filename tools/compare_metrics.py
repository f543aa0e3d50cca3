"""Compare metrics/ of the workspace with those of a commit: `compare_metrics.py [revision]`.

Prints a line per figure that differs and exits 1 when one differs by more than the tolerance.
"""

import json
import subprocess
import sys
from pathlib import Path

TOLERANCES = {
    "answer_perplexity": 0.1,
    "caption_bleu": 5.0,
    "images": 0.0,
    "texts": 0.0,
    "questions": 0.0,
    "captions": 0.0,
}
"""Allowed absolute difference by figure; every other figure is a share and may differ by 0.05."""

SHARE_TOLERANCE = 0.05


def committed_files(revision: str) -> list[Path]:
    """The metrics files of a commit."""
    command = ["git", "ls-tree", "-r", "--name-only", revision, "metrics"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.splitlines() if name.endswith(".json")]


def committed(revision: str, file: Path) -> dict[str, float]:
    """Figures of a metrics file in a commit."""
    command = ["git", "show", f"{revision}:{file.as_posix()}"]
    figures: dict[str, float] = json.loads(subprocess.check_output(command))
    return figures


def main() -> None:
    """Compare every metrics file that the commit has."""
    revision = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    compared, failed = 0, False
    for file in committed_files(revision):
        before = committed(revision, file)
        after = json.loads(file.read_text()) if file.is_file() else {}
        for name in sorted(set(before) | set(after)):
            old, new = before.get(name), after.get(name)
            compared += 1
            if old == new:
                continue
            allowed = TOLERANCES.get(name, SHARE_TOLERANCE)
            bad = old is None or new is None or abs(new - old) > allowed
            failed |= bad
            print(f"{'DIFFERS' if bad else 'within tolerance'}: {file} {name}: {old} -> {new}")
    print(f"{compared} figures compared with {revision}")
    if failed or not compared:
        sys.exit(1)


if __name__ == "__main__":
    main()
