"""Layers whose parameters, gradients and optimiser state are spread over the processes.

PyTorch's FSDP2 gathers a layer when it is called and lets go of it after. Only the layers of a
model's stacks are spread: they hold most of its parameters, and are reached by calling them alone.
Embeddings, heads and scales, which losses also read directly, stay whole in every process.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plumbline.errors import ConfigError
from plumbline.models.weights import is_spread, local, whole
from plumbline.training.free_memory import return_freed_memory
from plumbline.training.layers import Stack, stacks
from plumbline.training.processes import Processes

_SETTING = "trainer.shard_layers"


class ShardedLayers:
    """The layers of a model that are spread, until `join` makes the model whole again."""

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        """Spread the layers of every stack of a model.

        Raises:
            ConfigError: there is no stack of layers, or one leaves layers out at random.
        """
        # Half as long to import as torch: a training in one process need not wait for it.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, share_comm_ctx

        self._model = model
        found = _layers(model)
        if not found:
            raise ConfigError(f"{_SETTING}: this model has no stack of layers; set it to false")
        assert processes.device is not None, "more than one"
        if processes.device.type == "cpu":
            return_freed_memory()
        mesh = init_device_mesh(processes.device.type, (processes.count,))
        # What a layer was, without the memory of its parameters.
        self._plain = [(stack, name, _without_parameters(stack[name])) for stack, name in found]
        # Without being told, FSDP would keep each gathered after its forward pass, as a root.
        layers = [
            fully_shard(stack[n], mesh=mesh, reshard_after_forward=True) for stack, n in found
        ]
        share_comm_ctx(layers)  # so that a layer's whole gradient goes when the next one's comes
        for layer in layers:
            layer.set_gradient_divide_factor(1.0)  # sums, as everywhere in this core
            layer.set_force_sum_reduction_for_comms(True)
            # Its whole parameters must not come to be in the inference mode of a validation.
            layer.unshard()
            layer.reshard()

    def join(self) -> None:
        """Give every process the whole model, in plain modules, on the CPU."""
        for stack, name, plain in self._plain:
            state = {key: whole(tensor).cpu() for key, tensor in stack[name].state_dict().items()}
            plain.load_state_dict(state, assign=True)
            stack[name] = plain
        self._model.to("cpu")


def _layers(model: nn.Module) -> list[tuple[Stack, int]]:
    """The outermost rows of modules of one class, and the members of each that can be spread."""
    for name, module in model.named_modules():
        if getattr(module, "layerdrop", 0.0):
            raise ConfigError(
                f"{_SETTING}: {name or 'the model'} leaves out layers at random (layerdrop), each "
                "process others; set it to 0 there or shard_layers to false"
            )
    found: list[tuple[Stack, int]] = []
    users = _users(model)
    for stack in stacks(model):
        for number, layer in enumerate(stack):
            parameters = list(layer.parameters())
            if parameters and all(users[p] == 1 and p.ndim for p in parameters):
                found.append((stack, number))
    return found


def _users(model: nn.Module) -> dict[nn.Parameter, int]:
    """How many modules hold each parameter."""
    users: dict[nn.Parameter, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        users[parameter] = users.get(parameter, 0) + 1
    return users


def _without_parameters(layer: nn.Module) -> nn.Module:
    """A copy with its buffers, whose parameters have a shape only."""
    shapes = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in layer.parameters()
    }
    return copy.deepcopy(layer, shapes)


@torch.no_grad()
def gradient_norm(gradients: Sequence[Tensor], processes: Processes) -> Tensor:
    """The norm of all gradients together, whether spread over the processes or not."""
    norm = nn.utils.get_total_norm([g for g in gradients if not is_spread(g)])
    if not processes.sharded:
        return norm
    parts = nn.utils.get_total_norm([local(g) for g in gradients if is_spread(g)])
    (of_spread,) = processes.sum([float(parts) ** 2])
    return torch.hypot(norm, norm.new_tensor(of_spread**0.5))
