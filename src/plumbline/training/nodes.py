"""The machines of one training, as torchrun has them: how many, and what runs on this one.

No torch here: `check_params` asks as well.
"""

import argparse
import os
import shlex
from typing import NoReturn

from plumbline.errors import ConfigError

TORCHRUN = "PLUMBLINE_TORCHRUN"
"""Words for torchrun, such as `--nnodes 2 --node-rank 0 --master-addr HOST --master-port 29500`:
with them a training stage takes its part in a training over several machines. Where processes run
changes no result, and so is no setting."""


def torchrun_words() -> list[str]:
    """What the environment says to torchrun; empty where one machine trains alone."""
    return shlex.split(os.environ.get(TORCHRUN, ""))


def processes_here(processes: int) -> int:
    """How many of the processes of a training run on this machine.

    Raises:
        ConfigError: they cannot be spread evenly over the machines.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun has started this one
        return int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = _count_nodes()
    if processes > 1 and processes % nodes:
        raise ConfigError(
            f"trainer.processes = {processes}: they cannot be spread evenly over the {nodes} nodes "
            f"of {TORCHRUN}; make it a multiple of {nodes}"
        )
    return max(1, processes // nodes)


def is_first_here() -> bool:
    """Whether this process is the first one of its machine; outside of torchrun it is."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def refuse_words(why: str) -> NoReturn:
    """Refuse what the environment says to torchrun."""
    raise ConfigError(
        f"{TORCHRUN} = {os.environ.get(TORCHRUN)!r}: {why}; such as --nnodes 2 --node-rank 0 "
        "--master-addr HOST --master-port 29500"
    )


def _count_nodes() -> int:
    # Of all words this one alone: torchrun reads them, and it takes seconds to load.
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--nnodes", default="1")
    found = parser.parse_known_args(torchrun_words())[0].nnodes
    if not (found.isdecimal() and int(found)):
        refuse_words(f"--nnodes {found} is no number of nodes")
    return int(found)
