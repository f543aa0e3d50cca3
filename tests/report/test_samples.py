from pathlib import Path

import pytest

from plumbline.errors import CheckpointError
from plumbline.report.samples import Key, Samples, Subject


def open_samples(name: str = "scenes", split: str = "val") -> Samples:
    return Samples(Path("work/cache") / name, split)


def test_a_sample_is_found_by_its_id(project) -> None:
    assert open_samples().subject(Key("sample_id", "s3")) == Subject("s3", 3, "a text")
    assert open_samples().subject(Key("sample_id", "s2")) == Subject("s2", 2, "")


def test_a_clip_is_named_by_the_first_row_that_has_it(empty_project) -> None:
    empty_project.add_dataset("fsdd", images=False, text="seven, by nicolas")
    found = open_samples("fsdd").subject(Key("audio", 1))
    assert found == Subject("s1", None, "seven, by nicolas", 1)


def test_what_the_cache_does_not_know_keeps_its_name(project) -> None:
    assert open_samples().subject(Key("sample_id", "other")) == Subject("other")
    assert open_samples().subject(Key("audio", 7)) == Subject("Audio 7")
    assert open_samples().subject(Key("sample", 7)) == Subject("Sample 7")
    assert open_samples().subject(Key()) == Subject()


def test_an_image_needs_no_row() -> None:
    assert open_samples("none").subject(Key("image", 2)) == Subject("Image 2", 2)


def test_a_missing_split_is_named(project) -> None:
    with pytest.raises(CheckpointError, match=r"train\.arrow: missing; run dvc repro"):
        open_samples(split="train").subject(Key("sample_id", "s0"))


def test_a_damaged_split_is_named(project) -> None:
    Path("work/cache/scenes/val.arrow").write_text("nothing", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"val\.arrow: not readable as a cache"):
        open_samples().subject(Key("sample_id", "s0"))


def test_of_equal_ids_that_of_the_own_part_is_taken(empty_project) -> None:
    empty_project.add_dataset("fsdd", parts=("digit", "speaker"))
    split = Path("work/cache/fsdd/val.arrow")
    split.write_bytes(split.read_bytes().replace(b"s0s1s2s3", b"s0s0s2s2"))
    samples = open_samples("fsdd")
    assert samples.subject(Key("sample_id", "s0", "digit")).image == 0
    assert samples.subject(Key("sample_id", "s0", "speaker")).image == 1
    assert samples.subject(Key("sample_id", "s2", "other")).image == 2
