"""Settings of compilation. No torch here: a wrong setting is told before it loads."""

from typing import Literal

from plumbline.config import Config


class CompileConfig(Config):
    """Whether forward and backward passes are compiled, and how."""

    mode: Literal["auto", "none", "default", "reduce-overhead", "max-autotune"] = "auto"
    """auto: default on a GPU, none on a CPU. reduce-overhead replays CUDA graphs, which helps small
    models; max-autotune tries kernels out, and gives the same bits as long as the compiler's cache
    beside the project's state stands."""
    unit: Literal["whole", "layers"] = "whole"
    """What is compiled at a time: the model with its loss, or layer by layer, which starts sooner
    and fuses less. Layers that are spread over processes are compiled one by one."""
    fullgraph: bool = False
    """Give compilation up where a part would be left to Python, rather than split the program."""
    dynamic: bool = True
    """Whether sizes that differ between batches share one program; else each has its own."""
