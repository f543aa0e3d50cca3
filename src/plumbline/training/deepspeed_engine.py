"""DeepSpeed's ZeRO as the engine of a training: state, gradients and parameters spread.

It means to give what the exact core gives, and does to the last digits: losses go in as sums, and
its average over processes is turned into the mean over all targets by its own loss scale. It keeps
no promise of equal bits. States on disk keep the plain form: each tensor whole, by its name.

Source: Rajbhandari et al. 2020, arXiv:1910.02054.
"""

import importlib.metadata
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum
from plumbline.errors import ConfigError
from plumbline.models.weights import WEIGHTS, load_weights, plain_tensors, read_tensors
from plumbline.training.checkpoint import MOMENTS
from plumbline.training.config import TrainerConfig
from plumbline.training.engine import adds_up_itself
from plumbline.training.gradient_sum import GradientSum
from plumbline.training.layers import stacks
from plumbline.training.machine import Machine
from plumbline.training.optim import build_optimizer
from plumbline.training.task import Task, no_metrics

_SETTING = "trainer.engine: deepspeed"
_PIECES = {2: "single_partition_of_fp32_groups", 3: "fp32_partitioned_groups_flat"}
"""Stage -> where DeepSpeed has what this process holds of the parameters, in flat tensors."""
TOLERANCE = 1e-5
"""How far losses may be from those of the exact core, relative to them, in fp32."""


class Passes(nn.Module):
    """A model as DeepSpeed wants it: all that a pass does happens within one `forward`."""

    def __init__(self, model: nn.Module) -> None:
        """Hold the model."""
        super().__init__()
        self.model = model

    def forward(self, call: Callable[..., object], *given: object) -> object:
        """What a function of the model gives, tensors [...] in a tuple for DeepSpeed to find."""
        return call(self.model, *given)


class DeepSpeedEngine:
    """ZeRO-2 or ZeRO-3 around a model, under `plumbline.training.engine.Engine`."""

    def __init__(self, model: nn.Module, config: TrainerConfig, machine: Machine) -> None:
        """As `Engine`.

        Raises:
            ConfigError: DeepSpeed is not installed, or cannot train such a model.
        """
        self._model, self._config, self._machine = model, config, machine
        _check_model(model)
        self._deepspeed = _import_deepspeed(machine)
        model.to(machine.device)
        self.optimizer = build_optimizer(model, config.optim)
        # Before the engine puts flat pieces into their place.
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._passes = Passes(model)
        self._engine = self._deepspeed.initialize(
            model=self._passes,
            optimizer=self.optimizer,
            config=_settings(config),
            dist_init_required=False,
        )[0]
        self._make_state()
        # Losses read embeddings, heads and scales directly: these are gathered for the whole pass.
        within = {p for stack in stacks(model) for p in stack.parameters()}
        for parameter in model.parameters() if self._spreads else ():
            if parameter not in within:
                self._deepspeed.zero.register_external_parameter(self._passes, parameter)

    @property
    def _zero(self) -> Any:
        """DeepSpeed's optimiser around ours."""
        return self._engine.optimizer

    def applied(self, task: Task) -> Task:
        """The task whose losses and metrics go through DeepSpeed's own forward pass.

        Raises:
            ConfigError: it compares the samples of a step, for which it calls parts of a model.
        """
        if task.window is not None:
            raise ConfigError(
                f"{_SETTING}: {task.name} compares the samples of a whole step, which needs the "
                "exact core; set trainer.engine.name to own"
            )

        def parts(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
            found = task.loss(model, batch)
            return found.total, found.count

        def loss(model: nn.Module, batch: Batch) -> LossSum:
            with _for_training_too():
                return LossSum(*self._engine(parts, batch))

        def metrics(model: nn.Module) -> Mapping[str, float]:
            with _for_training_too():
                found: Mapping[str, float] = self._engine(task.validation_metrics)
            return found

        if task.validation_metrics is no_metrics:
            return replace(task, loss=loss)
        return replace(task, loss=loss, validation_metrics=metrics)

    def backward(self, total: Tensor) -> None:
        """As `Engine`, of a scalar []; DeepSpeed sums gradients over the processes as it goes."""
        self._engine.backward(total, scale_wrt_gas=False)

    def gradient_sum(self) -> GradientSum:
        """None is left to be summed."""
        return adds_up_itself()

    def forget(self) -> None:
        """Drop what gradients there are; a step begins anew."""
        self._zero.zero_grad(set_to_none=True)

    def scale_and_clip(self, total: Tensor, count: Tensor) -> Tensor:
        """As `Engine`, of a scalar [] and its count []; the update is made with it.

        DeepSpeed clips within its step, and leaves that out where a gradient is not finite.
        """
        if not (count and total.isfinite()):
            return (
                torch.zeros_like(total) if total.isfinite() else torch.full_like(total, torch.inf)
            )
        # It has divided by the number of processes, and divides by the scale.
        self._zero.override_loss_scale(float(count) / self._machine.processes.count)
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        self._zero.override_loss_scale(1.0)
        return torch.as_tensor(norm, dtype=torch.float64).reshape(())

    def update(self, scaler: torch.GradScaler) -> None:
        """Nothing: it was made."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """As `Engine`, each [its own shape]."""
        with self._gathered():
            yield from plain_tensors(self._model)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """As `Engine`, each [of its parameter] or []; all processes draw them."""
        from deepspeed.utils import safe_get_full_optimizer_state

        kept = self._kept()
        for index, parameter in enumerate(self._trained):
            for name, value in kept.items():
                if value.ndim == 0:  # a count of steps, the same for all
                    yield f"{index}.{name}", value
                else:
                    yield f"{index}.{name}", safe_get_full_optimizer_state(parameter, name)

    def _kept(self) -> dict[str, Tensor]:
        """What the optimiser keeps of one of its flat pieces, by name; nothing before a step."""
        states = self.optimizer.state.values()
        return {name: torch.as_tensor(v) for name, v in next(iter(states), {}).items()}

    def load(self, path: Path) -> None:
        """As `Engine`."""
        stored = read_tensors(path / MOMENTS)
        with self._gathered(modifier_rank=0):
            load_weights(self._model, path / WEIGHTS)
        wholes = dict(self._whole_parameters())
        for index, parameter in enumerate(self._trained):
            self._set(parameter, wholes[parameter])
            for key in [key for key in stored if key.startswith(f"{index}.")]:
                name = key.partition(".")[2]
                if stored[key].ndim:
                    self._set(parameter, stored[key].to(self._machine.device), name)
        counts = [tensor for tensor in stored.values() if tensor.ndim == 0]
        for count in self._counts():  # the same for all
            count.copy_(counts[0])

    def _set(self, parameter: nn.Parameter, value: Tensor, name: str | None = None) -> None:
        """Set what DeepSpeed keeps of a parameter to a whole value [of the parameter].

        Args:
            parameter: one that trains.
            value: for all of it.
            name: of what the optimiser keeps; None: the weight itself.
        """
        from deepspeed import utils

        of = () if name is None else (name,)
        if not self._spreads:
            full = utils.safe_set_full_optimizer_state if of else utils.safe_set_full_fp32_param
            full(parameter, value, *of)
            return
        # Its function for whole values forgets that the last process's piece is filled up.
        held: Any = parameter  # with an attribute of DeepSpeed's
        size, rank = held.ds_tensor.numel(), self._machine.processes.rank
        filled = value.new_zeros(size * self._machine.processes.count)
        filled[: value.numel()] = value.flatten()
        part = utils.safe_set_local_optimizer_state if of else utils.safe_set_local_fp32_param
        part(parameter, filled[rank * size :][:size], *of)

    def _make_state(self) -> None:
        """Have the optimiser make its state, by a step that changes no weight.

        DeepSpeed looks for the state of all pieces after the step of the first one.
        """
        pieces = getattr(self._zero, _PIECES[self._config.engine.stage])
        groups = self.optimizer.param_groups
        held = [(group, group["params"], group["lr"]) for group in groups]
        for group in groups:
            group["params"] = []
        groups[0] |= {"params": pieces, "lr": 0.0}
        before = [piece.grad for piece in pieces]  # with offload its own buffers on the host
        for piece in pieces:
            piece.grad = torch.zeros_like(piece)
        self.optimizer.step()
        for piece, gradient in zip(pieces, before, strict=True):
            piece.grad = gradient
        for group, parameters, rate in held:
            group |= {"params": parameters, "lr": rate}
        for count in self._counts():
            count.zero_()
        if self._config.engine.stage == 2:
            # Else known after a step alone, and a state that is loaded comes before it.
            self._zero._lazy_init_hp_params_optimizer_state()

    def _counts(self) -> Iterator[Tensor]:
        """Of steps, [] each, which the optimiser keeps beside its moments."""
        for state in self.optimizer.state.values():
            yield from (v for v in state.values() if isinstance(v, Tensor) and v.ndim == 0)

    @property
    def _spreads(self) -> bool:
        return self._config.engine.stage == 3

    def _gathered(self, modifier_rank: int | None = None) -> Any:
        """A block in which parameters are whole."""
        gather = self._deepspeed.zero.GatheredParameters
        parameters = list(self._model.parameters())
        return gather(parameters, modifier_rank=modifier_rank, enabled=self._spreads)

    def _whole_parameters(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        with self._gathered():
            for parameter in self._trained:
                yield parameter, parameter.detach().float().clone()

    def join(self) -> None:
        """Leave the plain model with whole weights, on the CPU."""
        with self._gathered():
            wholes = {name: p.detach().clone().cpu() for name, p in self._model.named_parameters()}
        self._engine.destroy()
        self._model.to("cpu")
        for name, whole in wholes.items():
            self._model.get_parameter(name).data = whole

    def facts(self) -> Mapping[str, object]:
        """For the run record: what made the updates, and what it does not promise."""
        engine = self._config.engine
        return {
            "engine": {
                "name": engine.name,
                "version": importlib.metadata.version("deepspeed"),
                "stage": engine.stage,
                "offload": engine.offload,
                "equal_bits": False,
                "loss_tolerance": TOLERANCE,
            }
        }


@contextmanager
def _for_training_too() -> Iterator[None]:
    """A block in which tensors are none of inference alone, whatever is around.

    Parameters that ZeRO-3 gathers for a pass of validation, and keeps since they are small, are
    those of the next step.
    """
    graph = torch.is_grad_enabled()  # which leaving the mode would switch on
    with torch.inference_mode(False), torch.set_grad_enabled(graph):
        yield


def _check_model(model: nn.Module) -> None:
    """Refuse what DeepSpeed cannot spread."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise ConfigError(
                f"{_SETTING}: it cannot hold {name}, a parameter of no dimension; set "
                "trainer.engine.name to own"
            )
        if parameter.dtype != torch.float32:
            raise ConfigError(
                f"{_SETTING}: {name} is {parameter.dtype}, and it is given float32 alone; set "
                "trainer.engine.name to own"
            )


def _import_deepspeed(machine: Machine) -> Any:
    """DeepSpeed, with the processes that have met already."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise ConfigError(
            f"{_SETTING} is not installed ({error}): pip install 'plumbline[deepspeed]'"
        ) from error
    backend = "nccl" if machine.device.type == "cuda" else "gloo"
    if not torch.distributed.is_initialized():  # one process alone
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # of C++
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    # On a CPU it would compile an operation of its own for sums within a machine, for a minute and
    # with a compiler; gloo, by which the processes met, does them.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return deepspeed


def _settings(config: TrainerConfig) -> dict[str, object]:
    """What DeepSpeed is told; batches and precision are the loop's."""
    engine = config.engine
    host = {"device": "cpu"}
    offload: dict[str, object] = {"offload_optimizer": host} if engine.offload else {}
    if engine.offload and engine.stage == 3:
        offload["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": 1,  # it counts by it and trains nothing by it
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # a step is where the loop makes one
        "gradient_clipping": config.max_grad_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's own goes on where the state is offloaded
        "zero_optimization": {"stage": engine.stage, **offload},
    }
