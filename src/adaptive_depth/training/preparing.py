"""What a recipe needs before the first step: checks, the network's state, the optimiser and its learning rates."""

from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from ..batches import device_of
from ..core.distributed import Distributed, synchronised
from ..core.network import AdaptiveNetwork
from ..errors import DataError, TrainingError
from ..hub.extra_state import apart
from ..hub.folder import check_storable
from ..wrapping import check_shaped, unwrapped
from .recipe import Recipe
from .steps import Loader


def check(network: nn.Module, batches: Loader, recipe: Recipe, *, kept: bool = False) -> None:
    """Raise all errors that are known before the first step; `kept` if checkpoints are written."""
    if not isinstance(network, nn.Module):
        raise TrainingError(f"train received a {type(network).__name__}: expected a network, adapt(model) or plain")
    if unwrapped(network) is not network and isinstance(unwrapped(network), AdaptiveNetwork):
        raise TrainingError(
            f"train received an adapted network inside a {type(network).__name__}, where it would train one depth "
            "only: pass the network itself; compile=True compiles it, and torchrun starts several processes"
        )
    check_shaped(network, "train received", TrainingError)
    extra = [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if extra and recipe.ema is not None:
        raise TrainingError(f"ema averages tensors, but {', '.join(extra[:3])} is not one: leave ema out of the recipe")
    if kept:
        check_storable(apart(network.state_dict())[0])  # report now what no checkpoint can hold
    if not isinstance(batches, Sized):
        raise DataError(
            f"train received batches without a length ({type(batches).__name__}): pass a list or DataLoader"
        )
    if not len(batches):
        raise DataError("train received an empty loader: expected at least one batch of (input, labels)")
    if len(batches) < recipe.accumulate:
        raise DataError(f"the loader has {len(batches)} batches, but one step has accumulate={recipe.accumulate} parts")
    if recipe.optimizer.lower() not in list_optimizers():
        raise TrainingError(f"optimizer {recipe.optimizer!r} is not one of timm's: expected sgd, adamw, lamb, ...")
    if Distributed().count > 1:
        _check_together(recipe, device_of(network))


@contextmanager
def prepared(network: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Apply the recipe's memory layout, frozen parameters, recomputation and synchronised norms inside."""
    processes = Distributed()
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)
    _freeze(network, recipe.freeze)
    with ExitStack() as stack:
        if recipe.grad_checkpointing:
            recompute: Any = getattr(network, "set_grad_checkpointing", None)
            if recompute is None:
                raise TrainingError(f"grad_checkpointing: a {type(network).__name__} has no set_grad_checkpointing()")
            recompute(True)
            stack.callback(recompute, False)
        if recipe.sync_batchnorm and processes.count > 1:
            stack.enter_context(synchronised(network))
        yield


def _check_together(recipe: Recipe, device: torch.device) -> None:
    """Refuse options that cannot be combined in several processes."""
    if "random" in (recipe.teacher, recipe.student):
        raise TrainingError("a random teacher or student leaves norms without gradients: train it in one process")
    if recipe.sync_batchnorm and device.type == "cpu":
        raise TrainingError("sync_batchnorm needs accelerators: leave it out on CPUs, or use larger shares of a batch")
    if recipe.fsdp:
        for name in ("low_memory", "compile", "sync_batchnorm"):
            if getattr(recipe, name):
                raise TrainingError(f"fsdp and {name} cannot be combined yet: leave one of them out")
        if recipe.precision == "fp16":
            raise TrainingError("fsdp with fp16: a gradient scaler would check each process's shard alone; use bf16")


def _freeze(network: nn.Module, parts: tuple[str, ...]) -> None:
    for part in parts:
        found = [parameter for name, parameter in network.named_parameters() if part in name]
        if not found:
            some = [name for name, _ in network.named_parameters()][:3]
            raise TrainingError(f"freeze has {part!r}, which is in no parameter's name ({', '.join(some)}, ...)")
        for parameter in found:
            parameter.requires_grad_(False)


def optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """No weight decay on norms, biases (everything one-dimensional) and what the recipe or a module excludes."""
    exempt = [
        f"{path}.{own}".lstrip(".")
        for path, module in network.named_modules()
        for own in getattr(module, "no_weight_decay", set)()
    ]
    exempt += [name for name, _ in network.named_parameters() if any(part in name for part in recipe.no_decay)]
    groups = param_groups_weight_decay(network, recipe.weight_decay, no_weight_decay_list=exempt)
    momentum: dict[str, Any] = {"momentum": recipe.momentum} if recipe.optimizer.lower() in ("sgd", "momentum") else {}
    return create_optimizer_v2(groups, recipe.optimizer, lr=recipe.lr, **momentum)


def learning_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_after: Callable[[float], int]) -> Scheduler:
    """The learning rate of every step; a recipe counts in epochs, which `steps_after` converts to steps."""
    asked = min(5, recipe.epochs / 10) if recipe.warmup_epochs is None else min(recipe.warmup_epochs, recipe.epochs)
    warmup = steps_after(asked)
    first = recipe.warmup_lr or recipe.lr / max(1, warmup)  # by default one step of the ramp above 0
    if recipe.schedule == "multistep":  # timm's milestones take effect one early
        at = [steps_after(number) + 1 for number in recipe.milestones]
        return MultiStepLRScheduler(
            optimizer, at, recipe.decay_rate, warmup, first, warmup_prefix=False, t_in_epochs=False
        )
    steps = max(2, steps_after(recipe.epochs))  # timm complains of a single one
    return CosineLRScheduler(
        optimizer, steps, lr_min=recipe.min_lr, warmup_t=warmup, warmup_lr_init=first, t_in_epochs=False
    )
