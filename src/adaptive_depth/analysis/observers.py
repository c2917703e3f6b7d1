"""Looking into a network without touching it: in a view of it, observers take the place of modules.

A module is replaced by a twin (views.py) whose forward an observer calls. Nothing is registered on the network's own
modules, so there is nothing to remove.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core.views import build_view, intercepted
from ..errors import MeasurementError


class Observer(Protocol):
    """Calls a module's forward, and may inspect its input and change its output."""

    def __call__(self, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any: ...


def observed(root: nn.Module, observers: Mapping[str, Observer]) -> nn.Module:
    """A view of `root` in which observers call the modules at some paths, none of which is inside another."""
    changes = {path: intercepted(root.get_submodule(path), observer) for path, observer in observers.items()}
    return build_view(root, changes).module


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no gradient reaches a parameter; afterwards `.grad` and `requires_grad` are as before."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, wanted, gradient in before:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


@dataclass(frozen=True)
class Kept:
    """F(h) and the block's output in the last pass."""

    change: Tensor
    after: Tensor


class BlockObserver:
    """What a block adds to its input in a pass, F(h) = block(h) - h.

    Arguments:
        path: the block's.
        keep: also keep F(h) and the block's output, until `forget`.

    Attributes:
        ratios: in the last pass, ‖F(h)‖₂ / ‖h‖₂ of each sample whose h is not 0; None if the block changes the
            shape.
    """

    def __init__(self, path: str, keep: bool = False) -> None:
        self.path, self.keep = path, keep
        self.ratios: Tensor | None = None
        self.rows: list[int] = []
        self._kept: Kept | None = None

    def __call__(self, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        before = _first_tensor(args or tuple(kwargs.values())).clone()  # a block may change its input in place
        output = forward(*args, **kwargs)
        after = _first_tensor(output)
        self.rows.append(len(after))
        self.ratios, change = None, torch.zeros(())
        if before.shape == after.shape:
            change, size = after - before, lengths(before)
            self.ratios = lengths(change)[size > 0] / size[size > 0]
        if self.keep:
            self._kept = Kept(change, after.clone())  # what comes next may change it in place
        return output

    def check(self, samples: int | None) -> None:
        """Raise a MeasurementError unless the last pass ran the block once, on finite numbers, with one row per sample.

        Arguments:
            samples: in the input; None if that is not certain (nodes of graphs, say): then any number of rows is valid.
        """
        rows, self.rows = self.rows, []
        if len(rows) != 1:
            raise MeasurementError(
                f"block {self.path!r} ran {len(rows)} times in one forward pass: expected once; if the model is "
                "wrapped, analyse the model inside"
            )
        if samples is not None and rows != [samples]:
            raise MeasurementError(
                f"block {self.path!r} returns {rows[0]} rows for {samples} samples: expected the batch as the first "
                "dimension"
            )
        if self.ratios is not None and not torch.isfinite(self.ratios).all():
            raise MeasurementError(
                f"block {self.path!r} returns non-finite numbers: look for weights that diverged in training"
            )

    @property
    def kept(self) -> Kept:
        assert self._kept is not None
        return self._kept

    def forget(self) -> None:
        """Free what was kept."""
        self._kept, self.rows = None, []


class FeatureLeaf:
    """Makes a module's output a leaf of the autograd graph, for gradients with respect to it.

    Attributes:
        leaf: of the last pass.
    """

    leaf: Tensor

    def __init__(self, then: Callable[[Tensor], Tensor] = torch.clone) -> None:
        self.then = then  # passes on a copy: the next module may change it in place

    def __call__(self, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        self.leaf = _first_tensor(output).detach().requires_grad_()
        handed_on = self.then(self.leaf)
        return (handed_on, *output[1:]) if isinstance(output, tuple) else handed_on


def lengths(tensor: Tensor) -> Tensor:
    """The 2-norm of each sample, over all other dimensions, in float32 or better: `[batch]`.

    Example:
        >>> lengths(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([5., 1.])
    """
    exact = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1, dtype=exact)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine between two tensors of one shape for each sample in which neither is 0: `[samples]`.

    Example:
        >>> cosines(torch.tensor([[1e-30, 0.0], [0.0, 0.0]]), torch.tensor([[-2.0, 0.0], [1.0, 1.0]]))
        tensor([-1.])
    """
    found = (_directions(a) * _directions(b)).sum(1)
    return found[~found.isnan()]


def _directions(tensor: Tensor) -> Tensor:
    """Each sample as a vector of length 1, nan where it is 0: `[batch, entries]`."""
    flat = tensor.reshape(len(tensor), -1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    flat = flat / flat.abs().amax(1, keepdim=True)  # squares of tiny gradients would underflow
    return flat / lengths(flat)[:, None]


def _first_tensor(value: Any) -> Tensor:
    """The tensor itself, or the first one in a tuple."""
    found = value if isinstance(value, Tensor) else next((each for each in value if isinstance(each, Tensor)), None)
    if not isinstance(found, Tensor):
        raise MeasurementError(f"a block takes or returns a {type(value).__name__} without a tensor")
    return found
