"""Print a script that completes the commands and options of plumbline in a shell.

bash   plumbline completion bash > ~/.local/share/bash-completion/completions/plumbline
zsh    plumbline completion zsh > a folder of $fpath, as _plumbline
"""

import argparse

import shtab

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the name of the shell."""
    parser.add_argument("shell", choices=SHELLS)


def run(options: argparse.Namespace) -> None:
    """Print the script."""
    from plumbline.cli.main import COMMANDS

    parser = argparse.ArgumentParser(prog="plumbline")
    parser.add_argument("--version", action="store_true")
    subparsers = parser.add_subparsers()
    for name, command in COMMANDS.items():
        command.module(name).add_arguments(subparsers.add_parser(name, help=command.summary))
    print(shtab.complete(parser, shell=options.shell))
