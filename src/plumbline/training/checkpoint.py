"""Training state on disk: whole, digested, bound to one run by its fingerprint.

`<root>/<fingerprint>/step-<n>/` holds the full state after micro-step n (weights, optimiser, clock)
and what makes the run (`identity.json`), `best/` the weights with the best monitored metric, and
`history.jsonl` the rows of all states. Tensors are safetensors and the rest JSON: nothing here can
execute code.
"""

import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from plumbline.code_digest import digest_tree
from plumbline.disk_errors import describe_os_error
from plumbline.errors import CheckpointError, OutputError
from plumbline.files import (
    digest_of,
    dump_json,
    exclusive_lock,
    read_json,
    remove_folder,
    settle_folder,
    staged_folder,
    verify_digests,
)
from plumbline.models.weights import (
    WEIGHTS,
    load_weights,
    read_tensors,
    save_tensors,
    spread_like,
    whole,
)
from plumbline.params import describe_differences, list_differences
from plumbline.training.clock import BestState
from plumbline.training.history import History
from plumbline.training.history_file import Extent, HistoryFile, Line
from plumbline.training.schedule import PlateauState
from plumbline.training.stopping import WaitingState

MOMENTS = "optimizer.safetensors"
"""In a state: what the optimiser keeps of its parameters, by number and name."""
IDENTITY = "identity.json"
"""Beside a state: what its fingerprint was made of."""


@dataclass
class TrainingState:
    """Everything that a continued run needs and that is not weights or optimiser tensors."""

    fingerprint: str
    clock: dict[str, int]
    best: BestState
    scaler: dict[str, object] = field(default_factory=dict)
    """Of the gradient scaler; empty unless the precision is fp16."""
    plateau: PlateauState = field(default_factory=PlateauState)
    """Of schedule `plateau`."""
    stopping: dict[str, WaitingState] = field(default_factory=dict)
    """Of early stopping, by metric."""
    micro_batch_size: int | None = None
    """As in `Progress`, and so is what follows."""
    uncompiled: str = ""

    history: Extent | None = None
    """How much of the file of the history is this state's; None before it is saved."""


_STEP = re.compile(r"step-(\d+)")


def _states(folder: Path) -> dict[int, Path]:
    """The states in a run's folder by their step; copies under other names are none."""
    named = {path: _STEP.fullmatch(path.name) for path in folder.glob("step-*")}
    return {int(step[1]): path for path, step in named.items() if step}


class CheckpointStore:
    """The folder of one run's training state."""

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        identity: Mapping[str, object] | None = None,
        keep_every_epochs: int = 7,
    ) -> None:
        """Bind a folder to the run with this fingerprint; it is created when first needed.

        Args:
            folder: the run's own.
            fingerprint: what a state must have to be continued.
            identity: what the fingerprint was made of (`identify_run`), saved with every state so
                that a run which it does not fit can say why.
            keep_every_epochs: the state after so many epochs stays as a snapshot.
        """
        self.folder = folder
        self.history = HistoryFile(folder / "history.jsonl")
        self.fingerprint = fingerprint
        self._identity = identity
        self._keep_every = keep_every_epochs

    def latest(self) -> Path | None:
        """The newest complete state, by step number, never by time; None when there is none."""
        steps = _states(self.folder)
        return steps[max(steps)] if steps else None

    def nearest_other(self) -> str | None:
        """Which state of another run beside this one is the most like it, and why it is not this.

        None where there is no other, or where this run does not know what makes it.
        """
        if self._identity is None:
            return None
        found = []
        for path in sorted(self.folder.parent.glob(f"*/step-*/{IDENTITY}")):
            with suppress(CheckpointError):  # it goes while its own run goes on
                if path.parents[1] != self.folder and _STEP.fullmatch(path.parent.name):
                    found.append((list_differences(read_json(path), self._identity), path.parent))
        if not found:
            return None
        differences, folder = min(found, key=lambda each: len(each[0]))
        return f"{folder} differs in {describe_differences(differences, 'there', 'here')}"

    def save(
        self,
        weights: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],
        state: TrainingState,
        rows: Sequence[Line],
        epoch: int,
    ) -> None:
        """Write the full state, then remove the one before unless it is a snapshot.

        Args:
            weights: those of the model, by `plain_tensors`, on the CPU.
            moments: those of its optimiser, by `optimizer_tensors`, on the CPU.
            state: the rest, but for the history.
            rows: of the history, those that `history.take` gave.
            epoch: number of the epoch that just ended, 0 within an epoch.
        """
        states = _states(self.folder).values()
        # Listed now, removed last: at every moment a whole state has its name.
        before = [path for path in states if not (path / "snapshot").exists()]
        # Named by batches: a skipped step has used some, and global_step did not move.
        final = self.folder / f"step-{state.clock['micro_step']}"
        with staged_folder(final) as partial:
            save_tensors(dict(weights), partial / WEIGHTS)
            save_tensors(dict(moments), partial / MOMENTS)
            # Before the state has its name: rows that no state reaches are cut off later.
            reaching = replace(state, history=self.history.append(rows))
            (partial / "state.json").write_text(json.dumps(vars(reaching)), encoding="utf-8")
            if self._identity is not None:
                (partial / IDENTITY).write_text(dump_json(self._identity), encoding="utf-8")
            if epoch and self._keep_every and epoch % self._keep_every == 0:
                (partial / "snapshot").touch()
        for old in before:
            if old != final:
                remove_folder(old)

    def save_best(self, weights: Mapping[str, Tensor], best: BestState) -> None:
        """Replace the best weights."""
        with staged_folder(self.folder / "best") as partial:
            save_tensors(dict(weights), partial / WEIGHTS)
            (partial / "best.json").write_text(dump_json(dict(best)), encoding="utf-8")

    def read(self, path: Path) -> tuple[TrainingState, History]:
        """What is in a state beside weights and moments, which were checked with it; its history.

        Raises:
            CheckpointError: damaged, of another version of plumbline, or it belongs to a run with
                another fingerprint.
        """
        verify_digests(path, remedy=self._without(path))
        stored = read_json(path / "state.json")
        if set(stored) != {own.name for own in fields(TrainingState)}:
            raise CheckpointError(
                f"{path}: was written by another version of plumbline; {self._without(path)}"
            )
        state = TrainingState(**stored)
        # The folder's name has but the first 16 digits of it.
        if state.fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{path}: belongs to another run (fingerprint {state.fingerprint[:12]}, this one "
                f"has {self.fingerprint[:12]}){self._compare(path)}; remove it"
            )
        if state.best.get("value") is not None:  # hours before it is needed
            verify_digests(self.folder / "best", remedy=self._anew())
        assert state.history is not None, "it was saved"
        return state, self.history.read(state.history, remedy=self._anew())

    def _without(self, damaged: Path) -> str:
        """What to do about a damaged state: what remains if it goes."""
        others = {step: path for step, path in _states(self.folder).items() if path != damaged}
        if not others:
            return self._anew()
        older = others[max(others)].name
        return f"remove {damaged}, and the training goes on from {older} when run again"

    def _anew(self) -> str:
        return f"remove {self.folder}, and the training begins anew when run again"

    def _compare(self, path: Path) -> str:
        if self._identity is None or not (path / IDENTITY).is_file():
            return ""
        differences = list_differences(read_json(path / IDENTITY), self._identity)
        return f": {describe_differences(differences, 'there', 'here')}" if differences else ""

    def load_best(self, model: nn.Module) -> None:
        """Load the best weights.

        Raises:
            CheckpointError: there are none, or they are damaged.
        """
        verify_digests(self.folder / "best", remedy=self._anew())
        load_weights(model, self.folder / "best" / WEIGHTS)

    def remove(self) -> None:
        """Delete the run's training state; what cannot be deleted does no harm."""
        with suppress(OutputError):
            remove_folder(self.folder)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """What an optimiser keeps of its parameters, by their number and its own names.

    All processes draw it if the parameters are spread over them.
    """
    # {number of the parameter, over all groups: {exp_avg: as the parameter, step: [], ...}}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            # A plugin's may keep plain numbers. All processes come to each tensor in turn.
            yield f"{index}.{name}", whole(torch.as_tensor(value).detach())


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load weights and moments of a state that was read.

    Raises:
        CheckpointError: the weights do not fit the model.
    """
    load_weights(model, path / WEIGHTS)
    _restore_optimizer(optimizer, read_tensors(path / MOMENTS))


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)  # "3.exp_avg": of parameter 3
        state.setdefault(int(index), {})[name] = tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, kept in state.items():
        parameter: Tensor = parameters[number]
        for name, tensor in kept.items():
            if tensor.shape == parameter.shape:  # else a count of steps
                kept[name] = spread_like(tensor, parameter)
    # Groups are those just built: their settings are in the fingerprint, the rate is set each step.
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def identify_run(settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
    """Everything that defines a training: settings, inputs, code and libraries.

    Args:
        settings: the resolved settings of the stage, with device and precision.
        inputs: digests of what it reads, by name; never a path of this machine.
    """
    # All that is imported by now, wherever it lies: names and meaning, no path, no comment.
    modules = sorted(
        (name, Path(str(module.__file__)))
        for name, module in sys.modules.items()
        # A stage that runs as a script is `__main__`.
        if name.split(".")[0] in ("plumbline", "plugins", "stages", "__main__")
        and getattr(module, "__file__", None)
    )
    # Records and their progress bars change no bit of a result.
    code = {n: digest_tree(f) for n, f in modules if not n.startswith("plumbline.tracking")}
    return {
        "settings": dict(settings),
        "inputs": dict(inputs),
        "code": code,
        "libraries": _libraries(),
    }


def fingerprint_run(identity: Mapping[str, object]) -> str:
    """The digest that stands for a run's identity."""
    return digest_of(dict(identity))


def _libraries() -> dict[str, str]:
    names = ["numpy", "tokenizers", "torch", "torchvision", "transformers"]
    # Extras: those alone that this training uses.
    names += [name for name in ("bitsandbytes", "deepspeed", "peft", "timm") if name in sys.modules]
    return {name: importlib.metadata.version(name) for name in names}


@contextmanager
def training_state_folder(stage: str, fingerprint: str) -> Iterator[Path]:
    """The folder for a run's training state, held alone while the block runs.

    It lies below `$DVC_ROOT`, so that it outlives a queued experiment's temporary checkout. Where
    another process trains the very same run at this moment, the folder is a fresh one.
    """
    root = Path(os.environ.get("DVC_ROOT", ".")) / ".ckpt" / stage
    name = fingerprint[:16]
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(root / f"{name}.lock"))
        except BlockingIOError:
            yield root / f"{name}-{os.getpid()}"
            return
        # Under the lock alone: what seems left over may be what a running process is writing.
        _settle(root, name)
        yield root / name


def _settle(root: Path, name: str) -> None:
    """Put in order what a killed run of the same name left behind."""
    try:
        settle_folder(root / name)
        for left in root.glob(f".{name}.removed-*"):
            shutil.rmtree(left)
    except OSError as error:
        raise describe_os_error(error, root / name) from error
