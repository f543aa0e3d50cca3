"""The command `plumbline`: what every subcommand has, and what a wrong one is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.cli.main import COMMANDS, build_parser, call
from plumbline.errors import ConfigError
from plumbline.version import __version__

CLI = Path(__file__).resolve().parents[2] / "src/plumbline/cli"


def test_the_table_has_every_module_but_that_of_the_table() -> None:
    modules = {file.stem for file in CLI.glob("[!_]*.py")}
    assert {command.file or name for name, command in COMMANDS.items()} == modules - {"main"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: plumbline {name} ")
    summary = str(COMMANDS[name].module(name).__doc__).splitlines()[0]
    assert summary in shown
    assert len(build_parser(name).format_help().splitlines()) > 4


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    call(["--help"])
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == [*COMMANDS]
    call([])
    assert capsys.readouterr().out == shown


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    call(["--version"])
    assert capsys.readouterr().out == f"plumbline {__version__}\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("predcit", "predcit: no such command; did you mean predict?"),
        ("zzz", "zzz: no such command; plumbline --help lists what there is"),
        ("--verison", "--verison: no such command; plumbline --help lists what there is"),
    ],
)
def test_a_wrong_command_is_told_the_nearest(name: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        call([name])
    assert str(refused.value) == told


def test_as_a_program_an_error_is_one_line_and_exit_1() -> None:
    command = [sys.executable, "-m", "plumbline", "inspct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: inspct: no such command; did you mean inspect?\n"


def test_options_may_stand_between_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser("evaluate")
    options = parser.parse_intermixed_args(["split=val", "m", "--data", "d", "batch_size=3"])
    assert (options.data, options.settings) == ("d", ["m", "batch_size=3"])
    assert options.model == Path("split=val")


def test_the_completion_of_bash_is_valid_and_knows_every_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call(["completion", "bash"])
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for name in COMMANDS:
        assert f"_{name}_option_strings=" in script
    assert "--retry-failed" in script


def test_a_command_imports_no_other_and_no_torch() -> None:
    code = (
        "import sys; from plumbline.cli.main import call; call(['--version'])\n"
        "loaded = [m for m in sys.modules if m.startswith('plumbline.cli.')]\n"
        "print(loaded, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['plumbline.cli.main'] False"
