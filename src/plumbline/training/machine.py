"""The machine of a training: what settings ask of it, and what it then computes on.

No torch here: `check_params` asks as well.
"""

import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plumbline.errors import ConfigError
from plumbline.training.config import TrainerConfig
from plumbline.training.nodes import processes_here
from plumbline.waiting import run_command

if TYPE_CHECKING:
    import torch

    from plumbline.training.processes import Processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What one process computes on; `launch.decide_machine` makes it once, all else is handed it.

    Device, precision and compilation shape every float of a training, so nothing below the stage
    may decide them again and come to another answer.
    """

    device: "torch.device"
    """Of several processes with GPUs, each has its own."""
    precision: str
    """fp32, bf16 or fp16: in which forward passes run."""
    processes: "Processes"
    """All that train together, and which of them this one is."""
    compile: str = "none"
    """How torch.compile compiles the passes, or none."""

    @property
    def replays(self) -> bool:
        """Whether passes are CUDA graphs, whose next run writes to the memory of the last one."""
        return self.compile in ("reduce-overhead", "max-autotune")


def asks_for_gpus(trainer: TrainerConfig) -> bool:
    """Whether it depends on the machine's GPUs that a training can run at all."""
    return trainer.device == "cuda" or trainer.processes > 1 or trainer.precision == "fp16"


def count_gpus() -> int:
    """GPUs that torch sees, asked of a process of its own: the import takes seconds and memory."""
    code = "import torch; print(torch.cuda.device_count())"
    done = run_command([sys.executable, "-c", code])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"torch cannot be asked for the GPUs ({last}); install requirements.lock")
    return int(done.stdout)


def check_machine(place: str, trainer: TrainerConfig, threads: int, gpus: int) -> None:
    """Refuse what this machine does not have; warn of processes that wait for each other.

    Args:
        place: the key of the trainer in params.yaml, for messages.
        trainer: what is asked for.
        threads: compute threads of each process.
        gpus: how many there are.

    Raises:
        ConfigError: names the setting, what is there and the remedy.
    """
    if trainer.device == "cuda" and not gpus:
        raise ConfigError(f"{place}.device = 'cuda': no GPU here; use auto or cpu")
    on_gpus = gpus > 0 and trainer.device != "cpu"
    if trainer.precision == "fp16" and not on_gpus:
        raise ConfigError(f"{place}.precision = 'fp16': no GPU here; use auto, bf16 or fp32")
    here = processes_here(trainer.processes)
    if on_gpus and here > gpus:
        raise ConfigError(
            f"{place}.processes = {trainer.processes}: {here} processes need "
            f"{here} GPUs, there {'is' if gpus == 1 else 'are'} {gpus}; lower it, or "
            "set device to cpu"
        )
    # Those that this process may use: taskset and containers leave it fewer than there are.
    cores = len(os.sched_getaffinity(0))
    if not on_gpus and here > 1 and here * threads > cores:
        logger.warning(
            "%s.processes = %d with threads = %d each on %d cores: they will wait for each other",
            place,
            here,
            threads,
            cores,
        )
