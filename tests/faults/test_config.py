"""Settings that are wrong, hostile or misleading, through the stages themselves (FC01-FC14)."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.cli.main import call
from plumbline.errors import CheckpointError
from plumbline.models.stored import read_spec
from plumbline.stage import run_stage
from plumbline.stages import check_params, finetune, prepare, pretrain_alignment

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "tasks.vqa.train"


class Project:
    """A folder with nothing but conf/ and params.yaml, in which a stage is run in this process."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def append(self, file: str, data: bytes) -> None:
        path = self.folder / file
        path.write_bytes(path.read_bytes() + data)

    def refusal(self, stage: Callable[..., None], *arguments: str) -> str:
        """The one line that a stage is refused with; nothing is written."""
        before = {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")}
        self._monkeypatch.setattr(sys, "argv", ["stage", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_stage(stage)
        assert ended.value.code == 1
        assert {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")} == before
        shown = self._capsys.readouterr()
        assert not shown.out
        line, *more = shown.err.splitlines()
        assert not more
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    def printed(self, stage: Callable[..., None], *arguments: str) -> str:
        """The settings that a stage would run with."""
        self._monkeypatch.setattr(sys, "argv", ["stage", *arguments, "--cfg", "job"])
        with pytest.raises(SystemExit) as ended:
            run_stage(stage)
        assert ended.value.code == 0
        return self._capsys.readouterr().out


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Project:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, monkeypatch, capsys)


OVERRIDES = {
    # FC01
    "+trainer.epoch=1": "trainer.epoch: unknown key; did you mean epochs?",
    "trainer.optm.lr=1": f"trainer.optm: unknown key; did you mean {TRAIN}.trainer.optim?",
    # FC02
    "trainer.epochs=three": "trainer.epochs = 'three': input should be a valid integer",
    "trainer.epochs=1.5": "trainer.epochs = 1.5: input should be a valid integer",
    "loader.batch_size=null": "loader.batch_size = None: input should be a valid integer",
    # FC03
    "loader.batch_size=0": "loader.batch_size = 0: input should be greater than or equal to 1",
    "trainer.optim.lr=-1": "trainer.optim.lr = -1: input should be greater than 0",
    "trainer.optim.lr=nan": "trainer.optim.lr = nan: input should be a finite number",
    "trainer.optim.lr=inf": "trainer.optim.lr = inf: input should be a finite number",
    "trainer.grad_accum_steps=0": "trainer.grad_accum_steps = 0: input should be greater",
    # FC04
    "trainer.schedule.warmup_steps=3": (
        "trainer.schedule: warmup_steps 3 and warmup_share 0.05 contradict: set one of them"
    ),
    "model.decoder.heads=3": "model.decoder: width 128 is not a multiple of heads 3",
    "trainer.validate_every_epochs=0 trainer.early_stopping={patience:1}": (
        "trainer: early_stopping needs validation: validate_every_epochs is 0 and validate_every"
    ),
    # FC07
    "+_target_=os.system": "_target_: unknown key",
    "+trainer.optim._target_=pandas.read_pickle": "trainer.optim._target_: unknown key",
    "trainer.optim.name=os.system": (
        "trainer.optim.name = 'os.system': optimizer 'os.system' is unknown (there is adamw,"
    ),
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_wrong_override_is_refused_by_key_value_and_rule(project: Project, override: str) -> None:
    written = [
        f"+{TRAIN}.{part[1:]}" if part.startswith("+") else f"{TRAIN}.{part}"
        for part in override.split()
    ]
    text = project.refusal(finetune.main, "vqa", *written)
    assert text.startswith(f"{TRAIN}.{OVERRIDES[override]}")


def test_an_override_that_refers_to_nothing_is_refused_by_key(project: Project) -> None:
    text = project.refusal(finetune.main, "vqa", f"{TRAIN}.trainer.epochs=${{nowhere}}")
    assert f"{TRAIN}.trainer.epochs = ${{nowhere}}: Interpolation key 'nowhere' not found" in text


THREADS = "\nthreads: 2\n"
PARAMS: dict[str, tuple[str, str, str]] = {
    # FC02, FC03: the same rules for the file as for the command line
    "wrong type": ("epochs: 6\n", "epochs: six\n", ".epochs = 'six': input should be a valid int"),
    "null": ("\nseed: 0\n", "\nseed: null\n", "seed = None: input should be a valid integer"),
    # FC05
    "octal": (THREADS, "\nthreads: 010\n", ": 010 is an octal number in YAML 1.1; write a"),
    "base 60": (THREADS, "\nthreads: 12:30:45\n", ": 12:30:45 is a number to the base 60 in"),
    "no": (THREADS, "\nthreads: no\n", "threads = False: input should be a valid integer"),
    # FC06
    "duplicate": (THREADS, "\nthreads: 2\nthreads: 3\n", "found duplicate key threads"),
    # FC08
    "tag": (
        THREADS,
        "\nthreads: !!python/object/apply:os.mkdir [made]\n",
        "could not determine a constructor for the tag",
    ),
    # FC11
    "loop": (
        "\nseed: 0\nthreads: 2\n",
        "\nseed: ${threads}\nthreads: ${seed}\n",
        "seed = ${threads}, threads = ${seed}: ",
    ),
    "missing": (THREADS, "\nthreads: ${cores}\n", "threads = ${cores}: Interpolation key 'cores'"),
    "mandatory": (THREADS, "\nthreads: ???\n", "threads: Missing mandatory value"),
    # and what is no text at all
    "not UTF-8": (THREADS, "\nthreads: 2 # \xff\n", "not UTF-8 text (byte"),
    "NUL": (THREADS, "\nthreads: 2 # \x00\n", "control characters are not allowed"),
}


DIFFER = ("wrong type", "null", "no")
"""What is valid YAML differs from conf/, which `check_params` tells before it looks at values."""


@pytest.mark.parametrize("fault", PARAMS)
def test_a_wrong_params_file_is_refused_in_one_line(project: Project, fault: str) -> None:
    old, new, expected = PARAMS[fault]
    file = project.folder / "params.yaml"
    content = file.read_bytes().decode("latin-1")
    assert old in content
    file.write_bytes(content.replace(old, new).encode("latin-1"))
    for main, key in ((finetune.main, ["vqa"]), (check_params.main, [])):
        text = project.refusal(main, *key)
        assert ("params.yaml is stale" if not key and fault in DIFFER else expected) in text


BOMBS = {
    "anchors": b"\n".join(
        [b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        + [b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 9)]
    ),
    "merged mappings": b"\n".join(
        [b"a0: &a0 {k: v}"]
        + [
            b"a%d: &a%d {%s}" % (i, i, b", ".join(b"k%d: *a%d" % (j, i - 1) for j in range(10)))
            for i in range(1, 9)
        ]
    ),
    "depth": b"deep: " + b"[" * 5000 + b"]" * 5000,
    "an anchor within itself": b"self: &self [*self]",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("file", ["params.yaml", "conf/optim/adamw.yaml"])
def test_a_bomb_of_anchors_or_levels_is_refused_within_two_seconds(
    project: Project, file: str, bomb: str
) -> None:
    project.append(file, b"\n" + BOMBS[bomb] + b"\n")
    started = time.process_time()
    arguments = [] if file == "params.yaml" else ["--write"]
    text = project.refusal(check_params.main, *arguments)
    assert time.process_time() - started < 2
    assert file in text


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_a_small_number_is_the_same_in_file_and_on_the_command_line(
    project: Project, written: str
) -> None:
    told = project.printed(finetune.main, "vqa", f"{TRAIN}.trainer.optim.lr={written}")
    project.edit("params.yaml", "          lr: 0.002\n", f"          lr: {written}\n")
    assert project.printed(finetune.main, "vqa") == told
    assert "      lr: 0.0001\n" in told


def test_a_file_of_conf_is_held_to_the_same_rules(project: Project) -> None:
    project.edit("conf/optim/adamw.yaml", "lr: 1.0e-3", "lr: 010")
    assert "conf/optim/adamw.yaml, line 3: 010 is an octal" in project.refusal(
        check_params.main, "--write"
    )


@pytest.mark.parametrize("group", ["datasets", "align", "tasks"])
@pytest.mark.parametrize("key", ["x;touch PWNED;#", "q&a", "my data", "v1.0"])
def test_a_key_that_would_reach_a_shell_is_refused_at_every_door(
    project: Project, group: str, key: str
) -> None:
    entry = {"datasets": "scenes", "align": "image", "tasks": "vqa"}[group]
    told = f"a key of {group}: {key!r} is not a name that can be used: letters, digits, _ and -"
    project.edit("params.yaml", f"{group}:\n", f"{group}:\n  {key!r}: ${{{group}.{entry}}}\n")
    assert project.refusal(prepare.main, "scenes").startswith(told)
    assert project.refusal(finetune.main, "vqa").startswith(told)
    assert project.refusal(check_params.main).startswith(told)
    assert project.refusal(call, "inspect", "vqa", "parameters").startswith(told)
    with (project.folder / "conf/experiment/odd.yaml").open("w", encoding="utf-8") as file:
        file.write(f"# @package _global_\n{group}:\n  {key!r}: ${{{group}.{entry}}}\n")
    project.edit("conf/config.yaml", "experiment: null", "experiment: odd")
    assert project.refusal(check_params.main, "--write").startswith(told)
    assert project.refusal(prepare.main, key).startswith(f"a key of datasets: {key!r} is not")


def test_the_name_of_an_experiment_or_a_sweep_is_held_to_the_rule(project: Project) -> None:
    (project.folder / "conf/experiment/a b.yaml").touch()
    assert project.refusal(check_params.main, "--write").startswith(
        "conf/experiment/a b.yaml: 'a b' is not a name that can be used"
    )


def test_params_that_conf_does_not_compose_to_are_refused(project: Project) -> None:
    project.edit("params.yaml", "          lr: 0.002\n", "          lr: 0.003\n")
    text = project.refusal(check_params.main)
    assert text.startswith(
        f"params.yaml is stale: {TRAIN}.trainer.optim.lr: 0.003 there, 0.002 in conf/. Keep "
    )


def test_a_variable_of_the_environment_is_never_read_from_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    spec = {"kind": "${oc.env:SECRET}", "_target_": "os.system"}
    (tmp_path / "model.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_spec(tmp_path)
    assert "kind '${oc.env:SECRET}' is none of" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_settings_of_an_older_version_are_refused_by_the_key_that_is_gone(
    project: Project,
) -> None:
    lr = "          lr: 0.002\n"
    project.edit("params.yaml", lr, f"{lr}          amsgrad: false\n")
    text = project.refusal(finetune.main, "vqa")
    assert text.startswith(f"{TRAIN}.trainer.optim.amsgrad: unknown key")


def test_params_made_under_other_libraries_are_refused_with_both_versions(
    project: Project,
) -> None:
    project.edit("params.yaml", "  torch: ", "  torch: 1.")
    text = project.refusal(pretrain_alignment.main, "image")
    assert text.startswith("versions.torch = '1.")
    assert "is installed: install requirements.lock, or run plumbline params" in text
