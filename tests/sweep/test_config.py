"""A sweep's file is read strictly; what is wrong is one line."""

from pathlib import Path

import pytest

from plumbline.errors import ConfigError
from plumbline.sweep.config import load_sweep

GOOD = """\
space:
  optim.lr: {low: 1.0e-4, high: 1.0e-1, log: true}
  optim.name: {choice: [adamw, sgd]}
metric: metrics/tasks/vqa.json:exact_match
direction: maximize
points: 12
"""


def write(root: Path, text: str) -> None:
    (root / "sweeps").mkdir(exist_ok=True)
    (root / "sweeps/s.yaml").write_text(text, encoding="utf-8")


def test_a_sweep_has_defaults(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    config = load_sweep(tmp_path, "s")
    assert (config.sampler, config.jobs, config.seeds, config.prune) == ("tpe", 1, [], None)
    assert config.space["optim.lr"].low == 1e-4  # a float, which PyYAML would read as a text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("points: 12", "pionts: 12", r"pionts: unknown key; did you mean points\?"),
        ("points: 12", "", "points is missing"),
        ("points: 12", "points: 0", "points = 0.*greater than or equal to 1"),
        ("high: 1.0e-1", "hihg: 1.0e-1", r"space\.optim\.lr\.hihg: unknown key; .* high\?"),
        ("high: 1.0e-1, ", "", r"space\.optim\.lr.*needs choice: \[...\], or low and high"),
        ("low: 1.0e-4", "low: 1.0", r"space\.optim\.lr.*low must be below high"),
        ("low: 1.0e-4", "low: 0.0", r"space\.optim\.lr.*log needs low above 0"),
        ("log: true", "int: true", r"space\.optim\.lr.*int needs whole numbers"),
        ("[adamw, sgd]", "[sgd, sgd]", r"space\.optim\.name.*each of them once"),
        ("[adamw, sgd]", "[]", r"space\.optim\.name.*at least one value"),
        ("choice: [adamw, sgd]", "choice: [1], low: 2", r"choice stands alone"),
        ("vqa.json:exact_match", "vqa.json", "metric.*write file:key"),
        ("metrics/tasks", "/metrics/tasks", "metric.*within the project"),
        ("direction: maximize", "direction: up", "direction = 'up'"),
        ("direction: maximize", "direction: minimize", "'exact_match' is better when higher"),
        ("exact_match", "answer_perplexity", "'answer_perplexity' is better when lower, but"),
        (
            "points: 12",
            "points: 12\nprune: {stage: finetune@vqa, direction: maximize}",
            "prune: value 'loss' is better when lower, but direction is maximize",
        ),
        ("points: 12", "points: 12\nseeds: [1, 2, 1]", "seeds names one twice"),
        ("optim.name", "seed", "seed is in the space and in seeds"),
        ("points: 12", "points: 12\njobs: 3\nslots: [0, 1]", "jobs 3 .* but slots names 2"),
        ("points: 12", "points: 12\nslots: [0, '1,0']", "slots .*: name each GPU once"),
        ("points: 12", "points: 12\nslots: ['']", "slots .*: name each GPU once"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    write(tmp_path, text + ("seeds: [1]\n" if new == "seed" else ""))
    with pytest.raises(ConfigError, match=message) as caught:
        load_sweep(tmp_path, "s")
    assert str(caught.value).startswith("sweeps/s.yaml: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_sweep_is_told_with_those_there_are(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=r"sweeps/t\.yaml: there is no such sweep; there is s"):
        load_sweep(tmp_path, "t")


@pytest.mark.parametrize("name", ["../s", "a;b", "", "s.yaml"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep: .* is not a name that can be used: letters"):
        load_sweep(tmp_path, name)


def test_more_points_and_jobs_are_the_same_search(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    before = load_sweep(tmp_path, "s").identity
    write(tmp_path, GOOD.replace("12", "20") + "jobs: 3\nslots: [0, 1, 2]\n")
    assert load_sweep(tmp_path, "s").identity == before
    write(tmp_path, GOOD.replace("1.0e-1", "2.0e-1"))
    assert load_sweep(tmp_path, "s").identity != before
