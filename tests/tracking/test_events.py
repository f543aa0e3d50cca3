"""What is read of the events of a run record."""

import math
from pathlib import Path

from plumbline.tracking.events import mapping_of, metrics_of, read_events, tags_of, time_ms


def test_numbers_are_metrics_and_all_else_is_tags() -> None:
    event = {"time": 1.5, "values": {"loss": 0.25, "size": {"rows": 3}, "digest": "12", "on": True}}
    points = metrics_of(event, 7, "facts/")
    assert [(point.name, point.value) for point in points] == [
        ("facts/loss", 0.25),
        ("facts/size.rows", 3.0),
    ]
    assert {point.time_ms for point in points} == {1500}
    assert tags_of(event) == {"digest": "12", "on": "true"}


def test_a_loss_that_is_not_finite_is_a_metric() -> None:
    (point,) = metrics_of({"values": {"loss": "nan"}}, 0)
    assert math.isnan(point.value)


def test_a_broken_line_is_an_event_without_anything(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    record.write_bytes(b'{"event": "start"}\n{"event": \n[1]\n{"event": "end"')
    events = [event for event, _ in read_events(record, 0)]
    assert events == [{"event": "start"}, {}, {}]  # the last line may still be growing
    assert time_ms(events[1]) == 0
    assert mapping_of(events[1], "values") == {}
