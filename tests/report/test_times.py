import json
import os
import time
from pathlib import Path
from xml.etree import ElementTree

from plumbline.report.page import TIMES
from plumbline.report.times import FILE, draw_times, write_times
from plumbline.tracking.past_runs import PastRun


def run(stage: str, seconds: float | None, pipeline: str = "20261127-232953-repro-5594") -> PastRun:
    return PastRun(stage, pipeline, "ok", seconds, None, Path("record"))


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg) if e.tag.endswith("text")]


def test_a_bar_is_as_long_as_its_share_of_the_longest() -> None:
    runs = {name: run(name, seconds) for name, seconds in (("a", 10.0), ("b", 40.0), ("c", None))}
    bars = [
        float(e.attrib["width"])
        for e in ElementTree.fromstring(draw_times(runs))
        if e.attrib.get("class") == "b"
    ]
    assert bars == [100.0, 400.0, 0.0]
    assert texts(draw_times(runs))[:2] == ["a", "10 s2026-11-27 23:29"]
    assert texts(draw_times(runs))[-1].startswith("50 s in all")


def test_names_are_escaped_and_a_strange_pipeline_has_no_time() -> None:
    svg = draw_times({"<b>&": run("<b>&", 1.0, "by hand")})
    assert texts(svg)[:2] == ["<b>&", "1 s"]


def test_nothing_recorded_is_said() -> None:
    assert texts(draw_times({})) == ["no run record here"]


def test_the_newest_good_runs_are_drawn_where_the_page_looks_for_them(tmp_path: Path) -> None:
    folder = tmp_path / ".plumbline/runs/20261127-232953-repro-1"
    folder.mkdir(parents=True)
    events = [
        {"event": "start", "time": time.time(), "stage": "finetune", "key": "vqa"},
        {"event": "end", "status": "ok", "seconds": 12.5},
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "finetune@vqa-1.jsonl").write_text(lines, encoding="utf-8")
    write_times(tmp_path, ["prepare@scenes", "finetune@vqa"])
    assert texts((tmp_path / FILE).read_text(encoding="utf-8"))[:2] == [
        "finetune@vqa",
        "12.5 s2026-11-27 23:29",
    ]
    assert os.path.normpath(Path("report", TIMES)) == FILE.as_posix()
