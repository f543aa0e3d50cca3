"""Running claims, keeping what they found, and the table of it in the docs."""

import datetime
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.claims import Claim
from bench.machine import THREADS, machine

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs/benchmarks/cpu.jsonl"
DOCS = ROOT / "docs/benchmarks/README.md"
BEGIN, END = "<!-- ledger: python -m bench table -->", "<!-- end of the ledger -->"
Entry = dict[str, Any]


def run(name: str, claim: Claim) -> Entry:
    """Run the script of a claim to its end, or until its time is over.

    Returns:
        What it printed, with the CPU seconds of it and all its children, and what the machine did
        beside it.
    """
    command = [sys.executable, "-m", f"bench.{claim.script}", *claim.arguments]
    # Threads that wait sleep: what they spin away would count as work.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": str(THREADS),
        "GOMP_SPINCOUNT": "1000",
        "PLUMBLINE_TRACKING": "off",
    }
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = _busy_seconds()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=60 * claim.minutes)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own: children end too
        printed, _ = process.communicate()
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "claim": name,
        "arguments": list(claim.arguments),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "exit": process.returncode,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "others_cpus": round(max(0.0, _busy_seconds() - busy - cpu) / wall, 2),
        "machine": machine(),
        "results": list(_lines(printed)),
    }


def _busy_seconds() -> float:
    """CPU seconds that all processes of the machine have taken; 0 where the kernel does not say."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system = (int(field) for field in fields[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _lines(printed: str) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines; a peer may print dictionaries of its own."""
    for line in printed.splitlines():
        if line.startswith('{"'):
            yield json.loads(line)


def read(path: Path = KEPT) -> dict[str, Entry]:
    """The entries that are kept, by claim."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {entry["claim"]: entry for entry in map(json.loads, lines)}


def keep(entry: Entry, claims: Mapping[str, Claim], path: Path = KEPT) -> None:
    """Put an entry in the place of the claim's former one, in the order of the claims."""
    entries = read(path) | {entry["claim"]: entry}
    kept = [json.dumps(entries[name], ensure_ascii=False) for name in claims if name in entries]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")


def missed(entry: Entry, claim: Claim) -> list[str]:
    """The bars of a claim that what was found does not hold, in words."""
    return [
        f"{name} is {'missing' if value is None else f'{value:g}'}, the bar is {bar}"
        for name, bar in claim.bars.items()
        if not bar.holds(value := bar.found(entry["results"]))
    ]


def table(entries: Mapping[str, Entry], claims: Mapping[str, Claim]) -> str:
    """The section of the docs, from what is kept."""
    lines = [
        "| claim | beside it, in turn | found (bar) | script | CPU s | others |",
        "|---|---|---|---|---|---|",
    ]
    for name, claim in claims.items():
        if name not in entries:
            lines.append(f"| {claim.says} | {claim.peer} | not measured | `{claim.script}` | | |")
            continue
        entry = entries[name]
        found = "; ".join(_figure(title, bar, entry) for title, bar in claim.bars.items())
        command = " ".join((claim.script, *entry["arguments"]))
        cells = (claim.says, claim.peer, found, f"`{command}`", entry["cpu_s"])
        lines.append(f"| {' | '.join(map(str, cells))} | {entry['others_cpus']} |")
    return "\n".join([*lines, "", *_machines(entries)])


def _figure(title: str, bar: Any, entry: Entry) -> str:
    value = bar.found(entry["results"])
    text = "missing" if value is None else f"{value:.4g}"
    return f"{title} {text} ({bar}){'' if bar.holds(value) else ' **missed**'}"


def _machines(entries: Mapping[str, Entry]) -> Iterator[str]:
    """What the figures were measured on: a line for each machine and day."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, entry in entries.items():
        known = dict(entry["machine"])
        cpu, cores, threads = known.pop("cpu"), known.pop("cores"), known.pop("threads")
        place = f"{cpu}, {cores} cores, {threads} threads"
        versions = ", ".join(f"{library} {version}" for library, version in known.items())
        groups.setdefault((place, versions, entry["date"]), []).append(name)
    for (place, versions, date), names in groups.items():
        which = "all" if len(groups) == 1 else ", ".join(names)
        yield f"Measured {date} on {place}; {versions}: {which}."


def render(text: str, section: str) -> str:
    """The docs with another section.

    Raises:
        ValueError: the marks around it are missing.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no section between {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{section}\n{END}{tail}"


def choose(names: Sequence[str], claims: Mapping[str, Claim]) -> dict[str, Claim]:
    """The named claims, or all.

    Raises:
        SystemExit: there is no such claim.
    """
    if unknown := [name for name in names if name not in claims]:
        raise SystemExit(f"error: {unknown[0]}: no such claim; there is {', '.join(claims)}")
    return {name: claims[name] for name in names or claims}
