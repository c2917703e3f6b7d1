"""The processes that train together: one, where no launcher (`torchrun`, `accelerate launch`) started more."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Processes:
    """How many there are, which one this is, and what they do together."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.index = int(os.environ.get("RANK", "0"))
        if self.count > 1 and not dist.is_initialized():
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available())

    @property
    def is_first(self) -> bool:
        """The one that writes files and shows progress."""
        return self.index == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over processes; itself where there is one."""
        if self.count == 1:
            return module
        place = next(module.parameters()).device
        return DistributedDataParallel(module, device_ids=[place] if place.type == "cuda" else None)

    def without_average(self, module: nn.Module, really: bool) -> AbstractContextManager[Any]:
        """Gradients stay apart inside, as they do in all parts of a step but the last."""
        return module.no_sync() if really and isinstance(module, DistributedDataParallel) else nullcontext()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """What `wrap` does by itself, for steps of two backward passes; each kind of number in one message."""
        if self.count == 1:
            return
        by_kind: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_kind.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_kind.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.count
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def any(self, mine: bool, device: torch.device) -> bool:
        """Is it so in any process?"""
        if self.count == 1:
            return mine
        return bool(self.sum(torch.tensor(int(mine), device=device)))

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()
