"""Settings of the training core. No torch here: a wrong setting is told before it loads."""

import difflib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from plumbline.config import Config
from plumbline.metrics.known import METRICS, Direction, figure_name, find_metric, split_part
from plumbline.registry import Registry, name_in
from plumbline.training.compile_config import CompileConfig
from plumbline.training.engine_config import EngineConfig
from plumbline.training.schedule import ScheduleConfig

Mode = Literal["auto", "min", "max"]


def resolve_mode(monitor_key: str, metric: str, mode_key: str, mode: Mode) -> Direction:
    """Which way a metric is better: as what is known of it says, or else the setting.

    Args:
        monitor_key: the setting that names the metric.
        metric: its name.
        mode_key: the setting that says which way is better.
        mode: its value.

    Raises:
        ValueError: the setting contradicts what is known, or nobody says it.
    """
    known = find_metric(metric)
    if mode == "auto":
        if known is None:
            raise ValueError(
                f"{monitor_key} {metric!r} is no metric that is known{_nearest(metric)}: set "
                f"{mode_key} to min or max, or register it in plumbline.metrics.known.METRICS"
            )
        return known.better
    if known is not None and known.better != mode:
        way = "lower" if known.better == "min" else "higher"
        raise ValueError(
            f"{monitor_key} {metric!r} is better when {way}, but {mode_key} is {mode}: leave "
            f"{mode_key} at auto"
        )
    return mode


def _nearest(metric: str) -> str:
    part, figure = split_part(metric)
    near = difflib.get_close_matches(figure, METRICS, n=1, cutoff=0.6)
    return f" (did you mean {figure_name(part, near[0])!r}?)" if near else ""


class PartConfig(Config):
    """Overrides for the parameters whose name begins with a prefix."""

    lr: float | None = Field(None, gt=0.0)
    """Peak learning rate; None: that of the rest."""
    weight_decay: float | None = Field(None, ge=0.0)
    """None: that of the rest."""


OPTIMIZERS: Registry[str] = Registry("optimizer")
"""Name -> `module:function`, a `plumbline.training.optim.BuildOptimizer`."""

# Texts, not functions: torch is not loaded where settings are checked.
for _name in ("adamw", "sgd", "muon"):
    OPTIMIZERS.register(_name, f"plumbline.training.optim:build_{_name}")
OPTIMIZERS.register("adamw_8bit", "plumbline.training.optim_8bit:build_adamw_8bit")


class SgdConfig(Config):
    """What only `sgd` reads."""

    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    """Share of the last update that is added to the next one; 0: none."""
    nesterov: bool = False
    """Whether the gradient counts once more beside the momentum, as Nesterov's does."""

    @model_validator(mode="after")
    def _something_to_look_ahead(self) -> "SgdConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is true, but momentum is 0")
        return self


class MuonConfig(Config):
    """What only `muon` reads: it trains the matrices of hidden layers, and AdamW all the rest."""

    momentum: float = Field(0.95, ge=0.0, lt=1.0)
    """Share of the last update that is kept in the next one."""
    nesterov: bool = True
    """Whether the gradient counts once more beside the momentum, as Nesterov's does."""
    newton_schulz_steps: int = Field(5, ge=1, lt=100)  # torch refuses 100
    """Iterations that make an update orthogonal."""
    lr_scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """match_rms_adamw: steps as large as AdamW's, so that its learning rates and decays fit."""
    adamw_lr_ratio: float = Field(1.0, gt=0.0)
    """Learning rate of what AdamW trains, as a multiple of the one that Muon has there."""
    adamw_parts: list[str] = Field(default_factory=list)
    """Name prefixes of matrices for AdamW, such as a classifier's head. Embeddings, language-model
    heads, convolutions, norms and biases are AdamW's in any case."""


class OptimConfig(Config):
    """The optimiser and its groups."""

    name: Annotated[str, name_in(OPTIMIZERS)] = "adamw"
    """Which optimiser: adamw_8bit holds its moments in 8 bits (extra adapters)."""
    lr: float = Field(1e-4, gt=0.0)
    """Peak learning rate, which `schedule` scales."""
    weight_decay: float = Field(0.01, ge=0.0)
    """Share of a weight that is taken off at each step, times the learning rate; with sgd it is
    part of the gradient."""
    betas: list[Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        # 0.98 in place of torch's 0.999, as for transformers (arXiv:1706.03762, section 5.3).
        [0.9, 0.98],
        min_length=2,
        max_length=2,
    )
    """Of adamw and adamw_8bit: how much of the mean of gradients, and of their squares, is kept."""
    eps: float = Field(1e-8, gt=0.0)
    """Added to the denominator of adamw and adamw_8bit."""
    decay_norms_and_biases: bool = False
    """Whether parameters of one dimension or none decay too."""
    parts: dict[str, PartConfig] = Field(default_factory=dict)
    """Name prefix, such as `projector` -> what differs there."""
    sgd: SgdConfig = Field(default_factory=SgdConfig)
    """What only sgd reads."""
    muon: MuonConfig = Field(default_factory=MuonConfig)
    """What only muon reads."""


class PatienceConfig(Config):
    """How long a metric may go without an improvement."""

    patience: int = Field(ge=1)
    """Validations that it may go without an improvement."""
    min_change: float = Field(0.0, ge=0.0)
    """A smaller change for the better does not count here; the best weights are kept anyway."""
    mode: Mode = "auto"
    """As `mode` of the trainer."""


class EarlyStoppingConfig(Config):
    """Stop when the monitored metric, or every one of `metrics`, has not improved for a while."""

    patience: int | None = Field(None, ge=1)
    """Validations that the monitored metric may go without an improvement."""
    min_change: float = Field(0.0, ge=0.0)
    """A smaller change for the better does not count here; the best weights are kept anyway."""
    metrics: dict[str, PatienceConfig] = Field(default_factory=dict)
    """In place of patience: metric -> its own patience. Training stops once all of them have gone
    that long without an improvement."""

    @model_validator(mode="after")
    def _either(self) -> "EarlyStoppingConfig":
        if (self.patience is None) == (not self.metrics):
            raise ValueError(
                "patience, for the monitored metric, or metrics, each with its own: set one of them"
            )
        if self.metrics and self.min_change:
            raise ValueError("min_change goes with patience; each of metrics has its own")
        for name, metric in self.metrics.items():
            resolve_mode(f"metrics.{name}", name, "mode", metric.mode)
        return self

    def patiences(self) -> dict[str, int]:
        """Key -> patience; all of them have to run out."""
        if self.patience is not None:
            return {"patience": self.patience}
        return {f"metrics.{name}.patience": m.patience for name, m in self.metrics.items()}

    def watched(self, monitor: str, mode: Direction) -> dict[str, PatienceConfig]:
        """Metric -> how long it may go without an improvement, each with its direction."""
        if self.patience is not None:
            own = PatienceConfig(patience=self.patience, min_change=self.min_change, mode=mode)
            return {monitor: own}
        return {
            name: metric.model_copy(
                update={"mode": resolve_mode("metrics", name, "mode", metric.mode)}
            )
            for name, metric in self.metrics.items()
        }


class OverfitConfig(Config):
    """What `plumbline inspect ... overfit` asks: can the model learn one batch by heart?"""

    samples: int = Field(16, ge=1)
    """Samples in the batch."""
    steps: int = Field(200, ge=1)
    """Most steps that it may take."""
    share: float = Field(0.1, gt=0.0, lt=1.0)
    """Of the first loss to get below."""


class CheckpointConfig(Config):
    """When training state is saved, and what is kept of it."""

    every_steps: int | None = Field(None, ge=1)
    """Optimiser steps between saves within an epoch; each epoch's end is saved in any case."""
    every_minutes: float | None = Field(None, gt=0.0)
    """Minutes after which a state is saved within an epoch; no figure depends on it."""
    keep_every_epochs: int = Field(7, ge=0)
    """The state of every such epoch stays as a snapshot while training runs; 0: none."""
    keep_after_success: bool = False
    """Whether the training state outlives a stage that has succeeded."""


class TrainerConfig(Config):
    """The one training loop."""

    epochs: int = Field(1, ge=1)
    """Passes over the training split; max_steps may end them earlier."""
    max_steps: int | None = Field(None, ge=1)
    """Upper limit on optimiser steps."""
    grad_accum_steps: int = Field(1, ge=1)
    """Batches in an optimiser step; the effective batch is batch_size times this."""
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Samples that go through the model at once, at most, in each process: batches are cut, their
    sums added up. null: whole batches; auto: as many as fit into memory."""
    gradient_checkpointing: bool = False
    """Keep of each layer its inputs alone and compute it once more in the backward pass: less
    memory, about a third more time, the same bits."""
    out_of_memory: Literal["split", "fail"] = "split"
    """Make a step that does not fit into memory again in micro-batches of half the size, and go on
    with those; or take it for any other failing batch, as with shard_layers or batch norm."""
    max_grad_norm: float | None = Field(1.0, gt=0.0)
    """Longer gradients are scaled down to this norm, over all parameters; None: none are."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: on a GPU with units for it bf16, and TF32 for what stays float32; else fp32. By name,
    fp32 is whole float32 on a GPU too."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one, else the CPU."""
    compile: CompileConfig = Field(default_factory=CompileConfig)
    """Whether forward and backward passes are compiled, and how."""
    deterministic: bool = True
    """Take the kernels of a GPU that give the same bits each time; false: the fastest."""
    keep_features: bool = True
    """Compute what `freeze` names once per distinct input before the first step, and keep it on
    disk in the precision of the training; false: at every step. What is augmented, or dropped word
    by word, is another input each time and computed at every step in any case."""
    processes: int = Field(1, ge=1)
    """Processes that share every batch on this machine, each with the stage's `threads` and, with
    GPUs, one of its own. Sums of floats depend on their number."""
    timeout_s: float = Field(1800.0, gt=0.0)
    """Seconds for which one of several processes waits for another before it gives up; figures of a
    validation that the first computes alone must fit into it."""
    engine: EngineConfig = Field(default_factory=EngineConfig)
    """What sums gradients, makes updates and holds the state of the optimiser."""
    shard_layers: bool = False
    """Spread the parameters of layers, their gradients and optimiser state over the processes,
    for a model that does not fit a single one; each layer is gathered whenever it is used."""
    validate_every_epochs: int = Field(1, ge=0)
    """0: not at the ends of epochs. Where validation is on at all, it comes at the end too."""
    validate_every_steps: int | None = Field(None, ge=1)
    """Optimiser steps between validations, beside those at the ends of epochs. Without either the
    last weights count as the best."""
    monitor: str = "loss"
    """The validation metric that decides on the best weights and on early stopping; that of a part
    is called `<part>/<metric>`."""
    mode: Mode = "auto"
    """Whether the monitored metric is better lower or higher; auto: as its name says. Only a metric
    of a plugin that is in no table needs it."""
    early_stopping: EarlyStoppingConfig | None = None
    """When training stops before its end; None: never."""
    overfit_check: OverfitConfig | None = None
    """Learn one batch by heart before the training begins, and fail where that does not go."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What to do about a step whose loss or gradient is not finite."""
    failing_batch: Literal["stop", "skip"] = "stop"
    """What to do about a step whose loss or gradient raises an error, such as out of memory."""
    max_skipped_steps: int = Field(10, ge=0)
    """More steps skipped than this, for either cause, stop the training."""
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    """When training state is saved, and what is kept of it."""
    optim: OptimConfig = Field(default_factory=OptimConfig)
    """The optimiser and its groups."""
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    """The learning rate over optimiser steps."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainerConfig":
        warmup = self.schedule.warmup_steps
        if warmup is not None and self.max_steps is not None and warmup > self.max_steps:
            raise ValueError(
                f"schedule.warmup_steps {warmup} is longer than the training: max_steps "
                f"{self.max_steps}"
            )
        if self.device == "cpu" and self.precision == "fp16":
            raise ValueError("precision fp16 needs a GPU, and device is cpu: use auto or bf16")
        if self.meets:
            self._check_meetings()
        if self.engine.name != "own":
            self._check_engine()
        resolve_mode("monitor", self.monitor, "mode", self.mode)
        if self.validates:
            self.check_patience(self._known_validations())
        else:
            off = "validate_every_epochs is 0 and validate_every_steps is null"
            if self.early_stopping is not None:
                raise ValueError(f"early_stopping needs validation: {off}")
            if self.schedule.name == "plateau":
                raise ValueError(f"schedule plateau needs validation: {off}")
        return self

    def _known_validations(self) -> int | None:
        """Validations of the whole training, as far as they do not depend on the data's size."""
        every = self.validate_every_epochs
        if self.validate_every_steps is None:
            # Rounded up, for the end of the training is validated too; every is not 0 here.
            return -(-self.epochs // every)
        if not every and self.max_steps is not None:
            # At most: epochs of little data may end before max_steps.
            return -(-self.max_steps // self.validate_every_steps)
        return None

    def check_patience(self, validations: int | None) -> None:
        """Refuse patience that outlasts the training: what waits for it could never happen.

        The first validation is compared with nothing, and after the last one nothing is left to
        stop or to slow down.

        Args:
            validations: of the whole training at most; None: not known yet.

        Raises:
            ValueError: names the settings.
        """
        if validations is None:
            return
        every = (
            f"{validations} validations (epochs, max_steps, validate_every_epochs, "
            "validate_every_steps)"
        )
        stopping, plateau = self.early_stopping, self.schedule
        for key, patience in stopping.patiences().items() if stopping is not None else ():
            if patience > validations - 2:
                raise ValueError(
                    f"early_stopping.{key} {patience} can never run out before the end of {every}: "
                    "lower it, validate more often or set early_stopping to null"
                )
        # One more than patience have to pass, where early stopping ends after patience.
        if plateau.name == "plateau" and plateau.plateau_patience > validations - 3:
            raise ValueError(
                f"schedule.plateau_patience {plateau.plateau_patience} can never run out before "
                f"the end of {every}: lower it, validate more often or take another schedule"
            )

    @property
    def meets(self) -> bool:
        """Whether no process can make a pass without the others."""
        return self.shard_layers or self.engine.meets

    def _check_meetings(self) -> None:
        setting = "shard_layers" if self.shard_layers else f"engine {self.engine.name}"
        if self.shard_layers and self.processes == 1:
            raise ValueError("shard_layers needs processes above 1")
        if self.precision == "fp16":
            raise ValueError(f"{setting} goes with precision fp32 and bf16, not fp16")
        if self.micro_batch_size == "auto":
            raise ValueError(
                f"{setting} contradicts micro_batch_size: auto, as no estimate knows its memory: "
                "give a number, or null"
            )
        if self.failing_batch == "skip":
            raise ValueError(
                f"{setting} contradicts failing_batch: skip: a process that fails within a layer "
                "leaves the others waiting for it"
            )

    def _check_engine(self) -> None:
        setting = f"engine {self.engine.name}"
        if self.shard_layers:
            raise ValueError(f"{setting} and shard_layers both spread the model: set one of them")
        if self.compile.mode not in ("auto", "none"):
            raise ValueError(f"{setting} contradicts compile.mode {self.compile.mode}: set none")
        if self.optim.name not in ("adamw", "sgd"):
            raise ValueError(
                f"{setting} cuts parameters into flat pieces, which optim.name {self.optim.name} "
                "cannot train by: use adamw or sgd"
            )

    @property
    def direction(self) -> Direction:
        """Which way the monitored metric is better."""
        return resolve_mode("monitor", self.monitor, "mode", self.mode)

    @property
    def validates(self) -> bool:
        """Whether there is any validation."""
        return self.validate_every_epochs > 0 or self.validate_every_steps is not None
