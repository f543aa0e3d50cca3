"""Compose params.yaml from conf/, and check every setting: what DVC hashes and the stages read."""

import argparse

from plumbline.stages import check_params


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing."""


def run(options: argparse.Namespace) -> None:
    """Write params.yaml."""
    check_params.main(["--write"])
