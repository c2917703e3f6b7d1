"""Activation checkpointing: blocks keep only their input, and run again in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ..errors import StagesError
from ..plan.norms import has_statistics


def recompute(block: nn.Module, enable: bool) -> None:
    """Let a block, and every later twin of it, run again in the backward pass; or stop that."""
    now: Any = block.forward
    before = getattr(now.__func__, "_recomputes", None)
    if enable and before is None:
        block.__dict__["forward"] = MethodType(_recomputing(now.__func__), block)
    if not enable and before is not None:
        block.__dict__.pop("forward")
        if before is not type(block).forward:  # a method that the user set on this object
            block.__dict__["forward"] = MethodType(before, block)


def _recomputing(plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # named so that an unpickled block finds its own
        if not (self.training and torch.is_grad_enabled()):
            return plain(self, *args, **kwargs)
        if torch.compiler.is_compiling():  # the compiler itself excludes buffer updates from recomputation
            return checkpoint(plain, self, *args, use_reentrant=False, **kwargs)

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            return nullcontext(), _statistics_kept(self)

        versions = [(leaf, leaf._version) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        output = checkpoint(plain, self, *args, use_reentrant=False, context_fn=contexts, **kwargs)
        if any(leaf._version != version for leaf, version in versions):
            raise StagesError(
                f"a {type(self).__name__} changes its input in place, so it cannot run again on it: train "
                "without grad_checkpointing, or let it work on a copy"
            )
        return output

    forward._recomputes = plain  # type: ignore[attr-defined]
    return forward


def is_recomputed(module: nn.Module) -> bool:
    """Does any part of it recompute activations, by this library's or the model's own means (timm, Hugging Face)?"""
    return any(
        getattr(part, "grad_checkpointing", False) or getattr(part, "gradient_checkpointing", False)
        for part in module.modules()
    )


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Inside, BatchNorms normalise as in training, without updating the running statistics a second time."""
    norms: list[Any] = [part for part in block.modules() if has_statistics(part)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # eval mode would stop the update, too, but normalise differently
    try:
        yield
    finally:
        for norm, (momentum, number) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(number)
