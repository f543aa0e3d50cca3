"""The ledger of claims: its table is that of what is kept, and its bars can be missed."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import ledger
from bench.claims import CLAIMS, Bar, Claim
from bench.verdict import judge

ROOT = Path(__file__).parents[2]
CLAIM = Claim("it is fast", "a loop", "nothing", ("--n", "1"), {"ratio": Bar("a.ratio", least=2)})


def entry(*results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    machine = {"cpu": "x", "cores": 2, "threads": 2, "torch": "2"}
    facts = {"claim": "one", "arguments": [], "date": "2026-01-01", "machine": machine}
    return {**facts, "cpu_s": 1.0, "others_cpus": 0.0, "results": list(results), **changes}


def test_the_table_in_the_docs_is_that_of_what_is_kept() -> None:
    assert command.write_table(check=True) == 0, "python -m bench table"


def test_every_claim_has_its_script_and_every_script_of_a_claim_its_peer() -> None:
    for name, claim in CLAIMS.items():
        assert (ROOT / f"bench/{claim.script}.py").is_file(), name
        assert claim.bars, name
        assert claim.peer, name


def test_what_was_kept_names_claims_and_arguments_that_there_are() -> None:
    for name, kept in ledger.read().items():
        assert kept["arguments"] == list(CLAIMS[name].arguments), f"python -m bench {name}"


@pytest.mark.parametrize(
    ("bar", "value", "holds"),
    [
        (Bar("x", least=2), 2.0, True),
        (Bar("x", least=2), 1.99, False),
        (Bar("x", most=2), 2.01, False),
        (Bar("x", least=1, most=2), 1.5, True),
        (Bar("x", most=2), math.nan, False),
        (Bar("x"), None, False),
    ],
)
def test_a_bar_is_missed_beyond_it_and_where_nothing_was_found(
    bar: Bar, value: float | None, holds: bool
) -> None:
    assert bar.holds(value) == holds


def test_a_figure_is_found_by_its_keys_in_the_line_that_is_meant() -> None:
    lines = [{"side": 32, "a": {"ratio": 1}}, {"side": 224, "a": {"ratio": 3}}]
    assert Bar("a.ratio", line={"side": 224}).found(lines) == 3
    assert Bar("a.other").found(lines) is None


def test_what_is_missed_stands_in_the_table() -> None:
    rows = ledger.table({"one": entry({"a": {"ratio": 1.5}})}, {"one": CLAIM})
    assert "ratio 1.5 (≥ 2) **missed**" in rows
    assert ledger.missed(entry({"a": {"ratio": 1.5}}), CLAIM) == ["ratio is 1.5, the bar is ≥ 2"]
    assert ledger.missed(entry(), CLAIM) == ["ratio is missing, the bar is ≥ 2"]
    assert ledger.missed(entry({"a": {"ratio": 2}}), CLAIM) == []


def test_an_entry_takes_the_place_of_the_former_one(tmp_path: Path) -> None:
    claims = {"zero": CLAIM, "one": CLAIM}
    for name, cpu in (("one", 1.0), ("zero", 1.0), ("one", 3.0)):
        ledger.keep(entry(claim=name, cpu_s=cpu), claims, tmp_path / "kept.jsonl")
    lines = (tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(e["claim"], e["cpu_s"]) for e in map(json.loads, lines)] == [
        ("zero", 1.0),
        ("one", 3.0),
    ]


def test_only_the_marked_section_of_the_docs_is_written() -> None:
    text = f"before\n{ledger.BEGIN}\nold\n{ledger.END}\nafter\n"
    assert ledger.render(text, "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="no section"):
        ledger.render("before", "new")


def test_a_script_is_run_with_its_children_and_ended_with_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/busy.py").write_text(
        "import subprocess, sys\nprint('words')\nprint('{\"a\": 1}', flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'while True: pass'])\n"
    )
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    found = ledger.run("busy", Claim("", "", "busy", (), {}, minutes=0.03))
    assert found["exit"] == -9
    assert found["results"] == [{"a": 1}]
    assert found["wall_s"] < 30


def drawn(seed: int, spread: float, slower: float = 1.0, count: int = 5) -> list[float]:
    """Ratios about 0.9 as runs give them: some spread, and one in ten far off."""
    rng = random.Random(seed)
    return [
        0.9 * slower * math.exp(rng.gauss(0, spread * (4 if rng.random() < 0.1 else 1)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("spread", [0.005, 0.02])
def test_a_fifth_more_is_found_and_no_change_gives_no_alarm(spread: float) -> None:
    words = {
        slower: [
            judge(drawn(seed, spread), drawn(seed + 10_000, spread, slower)).word
            for seed in range(500)
        ]
        for slower in (1.0, 1.2)
    }
    assert words[1.0].count("slower") == 0
    assert words[1.2].count("slower") + words[1.2].count("unclear") == 500
    assert words[1.2].count("slower") >= 490


def test_a_spread_that_could_hide_it_is_unclear_and_no_alarm() -> None:
    words = [judge(drawn(seed, 0.25), drawn(seed + 10_000, 0.25, 1.2)).word for seed in range(500)]
    assert words.count("unclear") > 250
    still = [judge(drawn(seed, 0.25), drawn(seed + 10_000, 0.25)).word for seed in range(500)]
    assert still.count("slower") < 50


def test_runs_that_repeat_to_the_digit_are_judged_by_the_alarm_alone() -> None:
    assert judge([1.0] * 5, [1.11] * 5).word == "slower"
    assert judge([1.0] * 5, [1.09] * 5).word == "unchanged"


@pytest.mark.parametrize(("before", "after"), [([1, 1], [1, 1, 1]), ([1, 1, 1], [1, 0, 1])])
def test_too_few_runs_and_ratios_that_are_none_are_refused(
    before: list[float], after: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"runs|ratio"):
        judge(before, after)
