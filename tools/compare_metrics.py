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


def committed(revision: str, file: Path) -> dict[str, float] | None:
    """Figures of a metrics file in a commit; None where it has none."""
    shown = subprocess.run(
        ["git", "show", f"{revision}:{file.as_posix()}"], capture_output=True, check=False
    )
    return None if shown.returncode else json.loads(shown.stdout)


def main() -> None:
    """Compare every metrics file that the commit has."""
    revision = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    compared, failed = 0, False
    for file in sorted(Path("metrics").rglob("*.json")):
        before = committed(revision, file)
        if before is None:
            continue
        after = json.loads(file.read_text())
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
