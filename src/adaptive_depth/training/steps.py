"""Training on one batch: the step of Algorithm 1, and the usual one of a plain network."""

from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..batches import arguments
from ..tasks import as_task
from ..wrapping import unwrapped
from .meter import StepResult
from .objective import checked

Backward = Callable[[Tensor], None]
# Forward and backward on one batch (input, labels): `backward(loss)` differentiates, scaled for precision and parts.
Step = Callable[[Any, Any, Backward], StepResult]


class Loader(Sized, Protocol):
    """Batches (input, labels) that can be iterated once per epoch, such as a DataLoader."""

    def __iter__(self) -> Iterator[Any]: ...


def distil(objective: nn.Module, *, low_memory: bool = False) -> Step:
    """The step of Algorithm 1: the super-net learns from the labels, the base-net from the super-net.

    Arguments:
        objective: a `SelfDistillation`, the network and its losses; or one wrapped for several processes.
        low_memory: use only the memory of the super-net's pass, with two backward passes.
    """

    def step(x: Any, y: Tensor, backward: Backward) -> StepResult:
        if low_memory:
            losses = objective.backward(x, y, backward)  # type: ignore[operator]
        else:
            losses = objective(x, y)
            backward(losses.total)
        return StepResult(losses.super_net.detach(), losses.super_output, losses.base_net.detach(), losses.base_output)

    return step


def supervise(network: Callable[..., Any], task: Any = None) -> Step:
    """The usual step of a plain network: the loss of a task, or of a criterion (cross-entropy if None)."""
    model = unwrapped(network) if isinstance(network, nn.Module) else None
    task = as_task(task, model)

    def step(x: Any, y: Any, backward: Backward) -> StepResult:
        if model is not None:
            task.check_input(x, model)
        args, kwargs = arguments(x)
        output = task.output(network(*args, **kwargs))
        loss = checked("the loss", task.loss(output, y), output)
        backward(loss)
        return StepResult(loss.detach(), tree_map_only(Tensor, torch.Tensor.detach, output))

    return step
