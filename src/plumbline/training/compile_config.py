"""Settings of compilation. No torch here: a wrong setting is told before it loads."""

from typing import Literal

from plumbline.config import Config


class CompileConfig(Config):
    """Whether forward and backward passes are compiled, and how."""

    mode: Literal["auto", "none", "default", "reduce-overhead", "max-autotune"] = "auto"
    """auto: default on a GPU, none on a CPU. reduce-overhead replays CUDA graphs, which helps small
    models; max-autotune tries kernels out, and gives the same bits as long as the compiler's cache
    beside the project's state stands."""
    unit: Literal["auto", "whole", "layers"] = "auto"
    """What is compiled at a time: the model with its loss as one program, which takes some four
    seconds a layer to be made, or layers, which share a program and fuse less. auto: layers of a
    model of more than 16, and of one whose layers are spread over processes."""
    fullgraph: bool = False
    """Give compilation up where a part would be left to Python, rather than split the program."""
    dynamic: bool = True
    """Whether sizes that differ between batches share one program, beside which a batch of
    others that were not foreseen is computed uncompiled; false: each size has its own."""
