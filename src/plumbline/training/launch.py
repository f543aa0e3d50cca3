"""Starting the processes of one training, and deciding what each computes on.

No torch until it is needed: a wrong setting is told before it loads.
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import ConfigError, TrainingError
from plumbline.text import one_line
from plumbline.training.machine import Machine
from plumbline.training.nodes import TORCHRUN, processes_here, refuse_words, torchrun_words
from plumbline.training.sections import TrainingConfig

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_STOPPED = tuple(128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
"""Exit codes of a training that has saved its state after a signal."""
_PR_SET_PDEATHSIG = 1


def rank() -> int | None:
    """The number of this process among those that torchrun started; None outside of it."""
    return int(os.environ["RANK"]) if "RANK" in os.environ else None


def quiet_backends() -> None:
    """Keep what torch's parts in C++ say of a lost connection to errors; before torch loads.

    It is told in one line, which they tell in forty.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def run_processes(module: str, arguments: Sequence[str], count: int) -> None:
    """Run `python -m module arguments` in `count` processes that find each other, to their end.

    Raises:
        TrainingError: one of them died, and the others were ended; or nodes have not met.
        SystemExit: they failed, having said why, or stopped on a signal with their state saved.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    config = _over_nodes(module, count) if torchrun_words() else _on_this_machine(module, count)
    # Not by itself: running the stage again goes on from the saved state, under its lock.
    config.max_restarts = 0
    # It tells in its own words what is said here in one line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except SignalException as stopped:
        raise SystemExit(128 + stopped.sigval) from None  # as shells do
    except (RendezvousError, DistError) as error:
        why = one_line(str(error).splitlines()[0])
        raise TrainingError(
            f"the nodes of {TORCHRUN} = {os.environ.get(TORCHRUN, '')!r} have not met, or lost "
            f"each other ({why}); start the stage on all of them, where each reaches the first one"
        ) from None
    except ChildFailedError as error:
        first, failure = error.get_first_failure()
        if failure.exitcode < 0:  # the signal's number, negative
            name = signal.Signals(-failure.exitcode).name
            raise TrainingError(
                f"process {first} of {count} was ended by {name}; the last checkpoint stands: "
                "run again to go on from it"
            ) from None
        # It has said why: nothing is to be added but the code.
        raise SystemExit(failure.exitcode if failure.exitcode in _STOPPED else 1) from None


def _on_this_machine(module: str, count: int) -> "LaunchConfig":
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        # A free port of the system's choice: trainings beside each other do not meet.
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        run_id=module,
    )


def _over_nodes(module: str, count: int) -> "LaunchConfig":
    """This machine's part of processes on several, as the environment says it to torchrun.

    Raises:
        ConfigError: torchrun does not understand it.
    """
    from torch.distributed.run import config_from_args, get_args_parser

    parser = get_args_parser()
    # It would print its usage, which is that of another command, and end.
    parser.error = refuse_words  # type: ignore[method-assign,assignment]
    here = ["--nproc-per-node", str(processes_here(count)), "-m", module]
    config: LaunchConfig = config_from_args(parser.parse_args([*torchrun_words(), *here]))[0]
    return config


def enter_process(wanted: int) -> None:
    """Take this process's place among several: it ends with the one that started it.

    Raises:
        ConfigError: torchrun started another number than the settings say.
    """
    there = int(os.environ.get("WORLD_SIZE", "1"))
    if there != wanted:
        raise ConfigError(
            f"trainer.processes = {wanted}, but torchrun started {there}: make them equal"
        )
    end_with_parent()  # it saves its state first


def decide_machine(config: TrainingConfig, *, together: bool = False) -> Machine:
    """Decide, once, what this process computes on; of several, meet the others.

    Args:
        config: what is asked for.
        together: whether it is one of those that torchrun started.

    Raises:
        ConfigError: the machine lacks what is asked for.
    """
    import torch

    from plumbline.models.device import (
        repeat_exactly,
        resolve_device,
        resolve_precision,
        round_float32,
    )
    from plumbline.training.compilation import keep_programs
    from plumbline.training.processes import Processes

    trainer = config.train.trainer
    torch.set_num_threads(config.threads)  # sums of floats depend on their number
    device, processes = resolve_device(trainer.device), Processes()
    if device.type == "cuda" and trainer.deterministic:
        repeat_exactly()
    if together:
        processes = Processes.join(device, trainer.timeout_s, sharded=trainer.meets)
        device = processes.device or device  # "cuda" is now one of them
    precision = resolve_precision(trainer.precision, device)
    if device.type == "cuda":
        round_float32(precision)
    mode: str = trainer.compile.mode
    if mode == "auto":
        compiled = device.type == "cuda" and not trainer.engine.meets
        mode = "default" if compiled else "none"
    if mode != "none":
        keep_programs(Path(os.environ.get("DVC_ROOT", ".")))
    return Machine(device, precision, processes, mode)


def end_with_parent() -> None:
    """Be sent SIGTERM when the process that started this one ends, be it killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
