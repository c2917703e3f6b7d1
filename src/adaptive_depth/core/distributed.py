"""The processes that train together: one, unless a launcher (`torchrun`, `accelerate launch`) started more."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from .network import AdaptiveNetwork, gathers


class Distributed:
    """The number of processes, the index of this one, and their collective operations."""

    def __init__(self) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available())  # starts torch.distributed from the launcher's environment
        started = dist.is_available() and dist.is_initialized()  # by this or by the user's own loop
        self.count, self.index = (dist.get_world_size(), dist.get_rank()) if started else (1, 0)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.index == 0

    # -- gradients ----------------------------------------------------------------------------------------------

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over processes; unchanged if there is one process."""
        if self.count == 1:
            return module
        place = next(module.parameters()).device
        devices = [place] if place.type == "cuda" else None  # DDP requires None on a CPU
        # Running statistics are averaged when needed; DDP would broadcast the first process's in every step.
        new = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
        apart: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
        return DistributedDataParallel(module, device_ids=devices, **apart)

    def shard(self, module: nn.Module, network: nn.Module) -> None:
        """Shard the parameters over the processes (FSDP2): each block of a network separately, the rest as one.

        Arguments:
            module: the one that is called in training, the network or its wrapper.
            network: if adapted, its blocks are gathered one by one when they run.
        """
        if isinstance(network, AdaptiveNetwork):
            for path in (path for stage in network.stages for path in stage.blocks):
                fully_shard(network.model.get_submodule(path))
            # Sharding replaces parameters and classes, and existing twins would keep the old ones.
            network.forget_views()
        fully_shard(module)

    def without_average(self, module: nn.Module, really: bool) -> AbstractContextManager[Any]:
        """Do not average gradients inside, as in all parts of a step except the last."""
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(not really)
        return module.no_sync() if really and isinstance(module, DistributedDataParallel) else nullcontext()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average explicitly what `wrap` averages itself, for steps with two backward passes."""
        self._average([parameter.grad for parameter in parameters if parameter.grad is not None])

    def average_statistics(self, module: nn.Module) -> None:
        """Average the running statistics, which each process gathered on its own images."""
        homes = [part for part in module.modules() if gathers(part)]
        self._average(
            [buffer for home in homes for buffer in home.buffers(recurse=False) if buffer.is_floating_point()]
        )

    def _average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over processes, in one message per dtype."""
        if self.count == 1:
            return
        by_kind: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault(tensor.dtype, []).append(tensor)
        for group in by_kind.values():
            flat = torch.cat([tensor.detach().flatten() for tensor in group])
            dist.all_reduce(flat)
            flat /= self.count  # gloo can only sum, not average
            for tensor, mean in zip(group, flat.split([each.numel() for each in group]), strict=True):
                tensor.detach().copy_(mean.view_as(tensor))

    # -- values -------------------------------------------------------------------------------------------------

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def any(self, mine: bool, device: torch.device) -> bool:
        """Is it true in any process?"""
        if self.count == 1:
            return mine
        return bool(self.sum(torch.tensor(int(mine), device=device)))

    def all_gather(self, mine: Any) -> list[Any]:
        """The plain values of all processes, in the order of their index."""
        if self.count == 1:
            return [mine]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, mine)
        return found

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            dist.barrier()


def gather(tensor: Tensor) -> Tensor:
    """A tensor in one piece; if it is sharded over the processes, all of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, kept: Tensor) -> Tensor:
    """A whole tensor, sharded over the processes like the one that it will replace."""
    if not isinstance(kept, DTensor):
        return tensor
    return distribute_tensor(tensor.to(kept.device), kept.device_mesh, kept.placements)


def load_whole(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors into a module whose parameters may be sharded over the processes."""
    own = module.state_dict()
    module.load_state_dict({name: shard_like(tensor, own[name]) for name, tensor in tensors.items()}, strict=False)


@contextmanager
def synchronised(network: nn.Module) -> Iterator[None]:
    """Inside, BatchNorms normalise with the statistics of all processes (`nn.SyncBatchNorm`); needs accelerators.

    They share parameters and buffers with the network's own, which are restored afterwards.
    """
    homes = [
        (parent, name, norm)
        for parent in network.modules()
        for name, norm in parent._modules.items()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
    ]
    for parent, name, norm in homes:
        parent._modules[name] = convert_sync_batchnorm(norm)
    _forget_views(network)
    try:
        yield
    finally:
        for parent, name, norm in homes:
            # The mode may have changed inside.
            norm.training = parent._modules[name].training  # type: ignore[union-attr]
            parent._modules[name] = norm
        _forget_views(network)


def _forget_views(network: nn.Module) -> None:
    if isinstance(network, AdaptiveNetwork):
        network.forget_views()
