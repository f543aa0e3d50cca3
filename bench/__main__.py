"""The claims about a CPU, each beside its peer: `python -m bench [claim ...]`, or `make bench`.

    python -m bench [claim ...]     run them, keep what they found, and write the table
    python -m bench table [--check] write the table in docs/benchmarks from what is kept
    python -m bench list            the claims and their bars

What was found lies in docs/benchmarks/cpu.jsonl, a line a claim. Exit code 1: a bar is missed, or
the table is not that of the lines. `python -m bench.gpu` has the claims about a GPU, and
`python -m bench.compare` tells whether a change made something slower.
"""

import sys
import time
from collections.abc import Sequence

from bench.claims import CLAIMS
from bench.ledger import DOCS, choose, keep, missed, read, render, run, table


def write_table(*, check: bool) -> int:
    """Bring the section of the docs up to what is kept."""
    text = DOCS.read_text(encoding="utf-8")
    current = render(text, table(read(), CLAIMS))
    if check:
        return int(current != text)
    DOCS.write_text(current, encoding="utf-8")
    return 0


def run_claims(names: Sequence[str]) -> int:
    """Run claims one after the other: two at a time would be in each other's figures."""
    began, bad = time.monotonic(), 0
    for name, claim in choose(names, CLAIMS).items():
        entry = run(name, claim)
        keep(entry, CLAIMS)
        write_table(check=False)
        faults = missed(entry, claim)
        if entry["exit"] < 0:
            faults.append(f"ended after {claim.minutes:g} minutes")
        bad += bool(faults)
        words = "; ".join(faults) or "holds"
        print(f"{name}: {words} ({entry['wall_s']} s, CPU {entry['cpu_s']} s)", flush=True)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes; see {DOCS}")
    return int(bad > 0)


def main(arguments: Sequence[str]) -> int:
    """Run, or write the table."""
    if arguments[:1] == ["table"]:
        return write_table(check=arguments[1:] == ["--check"])
    if arguments[:1] == ["list"]:
        for name, claim in CLAIMS.items():
            print(f"{name:14} {'; '.join(f'{k} {bar}' for k, bar in claim.bars.items())}")
        return 0
    if any(argument.startswith("-") for argument in arguments):
        print(__doc__)
        return 0 if arguments[0] in ("-h", "--help") else 2
    return run_claims(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
