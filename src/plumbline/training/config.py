"""Settings of the training core. No torch here: a wrong setting is told before it loads."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from plumbline.config import Config


class PartConfig(Config):
    """Overrides for the parameters whose name begins with a prefix."""

    lr: float | None = Field(None, gt=0.0)
    weight_decay: float | None = Field(None, ge=0.0)


class OptimConfig(Config):
    """The optimiser and its groups."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(1e-4, gt=0.0)
    weight_decay: float = Field(0.01, ge=0.0)
    betas: list[Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        [0.9, 0.98], min_length=2, max_length=2
    )
    eps: float = Field(1e-8, gt=0.0)
    decay_norms_and_biases: bool = False
    """Whether parameters of one dimension or none decay too."""
    parts: dict[str, PartConfig] = Field(default_factory=dict)
    """Name prefix, such as `projector` -> what differs there."""


class ScheduleConfig(Config):
    """Learning rate over optimiser steps: a linear warm-up, then a curve."""

    name: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "cosine"
    warmup_steps: int | None = Field(None, ge=0)
    warmup_share: float | None = Field(None, ge=0.0, lt=1.0)
    """Warm-up as a share of all steps, in place of warmup_steps."""
    final_share: float = Field(0.0, ge=0.0, le=1.0)
    """Learning rate at the last step of linear and cosine, as a share of the peak."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "ScheduleConfig":
        if self.warmup_steps is not None and self.warmup_share is not None:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and warmup_share {self.warmup_share} "
                "contradict: set one of them"
            )
        return self


class EarlyStoppingConfig(Config):
    """Stop when the monitored metric has not improved for `patience` validations."""

    patience: int = Field(ge=1)
    min_change: float = Field(0.0, ge=0.0)
    """A smaller change for the better does not count here; the best weights are kept anyway."""


class CheckpointConfig(Config):
    """When training state is saved, and what is kept of it."""

    every_steps: int | None = Field(None, ge=1)
    """Optimiser steps between saves within an epoch; each epoch's end is saved in any case."""
    keep_every_epochs: int = Field(7, ge=0)
    """The state of every such epoch stays as a snapshot while training runs; 0: none."""
    keep_after_success: bool = False
    """Whether the training state outlives a stage that has succeeded."""


class TrainerConfig(Config):
    """The one training loop."""

    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)
    """Upper limit on optimiser steps."""
    grad_accum_steps: int = Field(1, ge=1)
    """Micro-batches in an optimiser step; the effective batch is batch_size times this."""
    max_grad_norm: float | None = Field(1.0, gt=0.0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device has units for it, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validate_every_epochs: int = Field(1, ge=0)
    """0 switches validation off; then the last weights count as the best."""
    monitor: str = "loss"
    """The validation metric that decides on the best weights and on early stopping."""
    mode: Literal["min", "max"] = "min"
    early_stopping: EarlyStoppingConfig | None = None
    non_finite: Literal["stop", "skip"] = "stop"
    """What to do about a step whose loss or gradient is not finite."""
    max_skipped_steps: int = Field(10, ge=0)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)

    @model_validator(mode="after")
    def _consistent(self) -> "TrainerConfig":
        warmup = self.schedule.warmup_steps
        if warmup is not None and self.max_steps is not None and warmup > self.max_steps:
            raise ValueError(
                f"schedule.warmup_steps {warmup} is longer than the training: max_steps "
                f"{self.max_steps}"
            )
        if self.early_stopping is not None and self.validate_every_epochs == 0:
            raise ValueError("early_stopping needs validation: validate_every_epochs is 0")
        return self
