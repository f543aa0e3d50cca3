"""The page of the command line is the one that the parsers make."""

from pathlib import Path

from plumbline.cli.main import COMMANDS, build_parser
from tools.command_reference import PLACE, page

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_page_is_what_the_parsers_say() -> None:
    committed = (ROOT / PLACE).read_text(encoding="utf-8")
    assert committed == page(), "run python -m tools.command_reference ."


def test_every_command_and_option_stands_on_it() -> None:
    sections = page().split("\n## `plumbline ")[1:]
    assert [section.partition("`")[0] for section in sections] == list(COMMANDS)
    options = 0
    for name, section in zip(COMMANDS, sections, strict=True):
        for action in build_parser(name)._actions:
            for option in action.option_strings:
                if action.dest != "help":
                    options += 1
                    assert f"`{option}" in section, (name, option)
    assert options > 60
