"""Changes of a module's state that are put back, whatever happens in between."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every sub-module is in the mode that it was in, also after an error."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
        _follow(module)


def _follow(module: nn.Module) -> None:
    """What keeps modules of its own in the modes of others is told that these changed."""
    for follow in (getattr(part, "follow_modes", None) for part in module.modules()):
        if callable(follow):
            follow()


@contextmanager
def modes_restored_on_error(module: nn.Module) -> Iterator[None]:
    """If the body raises, every sub-module is in the mode (training, evaluation) that it was in before."""
    before = [(part, part.training) for part in module.modules()]
    try:
        yield
    except BaseException:
        for part, training in before:
            part.training = training
        _follow(module)
        raise


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """torch's transformer layers compute as they are written, and not otherwise where nobody watches them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def buffers_restored_on_error(parts: Iterable[nn.Module]) -> Iterator[None]:
    """If the body raises, running statistics and all other buffers are what they were before it.

    Arguments:
        parts: the modules whose own buffers are kept: `network.modules()`, or a list that a loop made once.
    """
    buffers = [buffer for part in parts for buffer in part._buffers.values() if buffer is not None]
    before = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        raise
