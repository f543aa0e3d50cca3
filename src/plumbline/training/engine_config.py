"""Settings of what makes the updates. No torch here: a wrong setting is told before it loads."""

from typing import Annotated, Literal

from pydantic import Field

from plumbline.config import Config
from plumbline.registry import Registry, name_in

ENGINES: Registry[str] = Registry("engine")
"""Name -> `module:class`, a `plumbline.training.engine.Engine`."""

ENGINES.register("own", "plumbline.training.engine:OwnEngine")
ENGINES.register("deepspeed", "plumbline.training.deepspeed_engine:DeepSpeedEngine")


class EngineConfig(Config):
    """What sums gradients, makes updates and holds the state of the optimiser."""

    name: Annotated[str, name_in(ENGINES)] = "own"
    """own: the exact core; deepspeed: ZeRO, equal to it within a tolerance."""
    stage: Literal[2, 3] = 2
    """Of ZeRO: what is spread over the processes. 2: optimiser state and gradients; 3: parameters
    too."""
    offload: bool = Field(False)
    """Of ZeRO: keep the state of the optimiser, and in stage 3 the parameters, in the memory of the
    host."""

    @property
    def meets(self) -> bool:
        """Whether all processes have to take part in every pass."""
        return self.name != "own"
