"""A network's input as named tensors: one image, or whatever else its forward takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import arguments, described, samples_in
from ..errors import ExportError
from .artifact import INPUTS, Input

_IMAGE, _SKIP = INPUTS
_TYPES = {torch.int64: "int64", torch.int32: "int32", torch.bool: "bool"}  # others are float32


@dataclass(frozen=True)
class Call:
    """How a network's forward takes its tensors.

    Attributes:
        names: of the tensors, in the order in which a file has them.
        positional: how many of them are positional arguments; the others are keyword arguments.
    """

    names: tuple[str, ...] = (_IMAGE,)
    positional: int = 1

    def __call__(self, model: Callable[..., Any], tensors: Sequence[Tensor], **more: Any) -> Any:
        """What the model returns for these tensors."""
        keywords = dict(zip(self.names[self.positional :], tensors[self.positional :], strict=True))
        return model(*tensors[: self.positional], **keywords, **more)


@dataclass(frozen=True)
class Example:
    """An example input: tensors on the CPU, floats as float32, and how they are passed."""

    call: Call
    tensors: tuple[Tensor, ...]

    @property
    def is_image(self) -> bool:
        """Whether it is one positional tensor `[batch, channels, height, width]`, which files call `image`."""
        first = self.tensors[0]
        return len(self.tensors) == self.call.positional == 1 and first.dim() == 4 and first.dtype == torch.float32

    @property
    def has_batch(self) -> bool:
        """Whether every tensor's first dimension is the batch."""
        return samples_in(self.tensors) is not None and all(tensor.dim() for tensor in self.tensors)

    def inputs(self, *, free_batch: bool) -> tuple[Input, ...]:
        """The inputs of a file; the batch is None where it is free."""
        free = free_batch and self.has_batch
        return tuple(
            Input(name, ((None if free else len(tensor), *tensor.shape[1:]) if tensor.dim() else ()), _type_of(tensor))
            for name, tensor in zip(self.call.names, self.tensors, strict=True)
        )


def image_of(x: Tensor) -> Example:
    """An example that is one image, `[batch, channels, height, width]`."""
    return Example(Call(), (_plain(x),))


def example_of(network: nn.Module, given: Any) -> Example:
    """An example input, checked.

    Arguments:
        network: the model whose forward takes it; names of positional arguments are those of its parameters.
        given: a tensor, a tuple of positional arguments, or a dictionary of keyword arguments.

    Raises:
        ExportError: anything but tensors in it, none at all, or a name that a file cannot have.
    """
    positional, keywords = arguments(given)
    named = {**dict(zip(_parameters(network, len(positional)), positional, strict=True)), **keywords}
    wrong = [name for name, value in named.items() if not isinstance(value, Tensor)]
    if wrong or not named:
        what = f"{wrong[0]!r} as {described(named[wrong[0]])}" if named else described(given)
        raise ExportError(
            f"export received the example {what}: expected a tensor [batch, ...], or tensors in a tuple (positional "
            "arguments) or a dict (keyword arguments)"
        )
    if _SKIP in named or not all(name.isidentifier() for name in named):
        raise ExportError(
            f"export received inputs named {', '.join(named)}: expected names other than {_SKIP}, which files use"
        )
    example = Example(Call(tuple(named), len(positional)), tuple(map(_plain, named.values())))
    return image_of(example.tensors[0]) if example.is_image else example


def _parameters(network: nn.Module, count: int) -> list[str]:
    """Names of the first positional parameters of a model's forward."""
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    try:
        known = [name for name, each in signature(network.forward).parameters.items() if each.kind in kinds]
    except (TypeError, ValueError):  # scripted
        known = []
    return [*known[:count], *(f"input_{place}" for place in range(len(known[:count]), count))]


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor if tensor.dtype in _TYPES else tensor.float()


def _type_of(tensor: Tensor) -> str:
    return _TYPES.get(tensor.dtype, "float32")


def another(example: Example, samples: int, *, pixels: bool) -> tuple[Tensor, ...]:
    """Random tensors like those of an example, of another batch size.

    Arguments:
        samples: the batch size.
        pixels: floats from 0 to 1, which detectors take; by default normally distributed ones. Integers lie in the
            range of the example's, so that they stay valid indices.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for tensor in example.tensors:
        shape = (samples, *tensor.shape[1:])
        if tensor.dtype == torch.bool:
            found.append(torch.rand(shape, generator=generator) < 0.5)
        elif not tensor.is_floating_point():
            low, high = int(tensor.min()), int(tensor.max())
            found.append(torch.randint(low, high + 1, shape, generator=generator, dtype=tensor.dtype))
        else:
            draw = torch.rand if pixels else torch.randn
            found.append(draw(shape, generator=generator))
    return tuple(found)


def as_given(call: Call, tensors: Sequence[Any]) -> Any:
    """Tensors as a session takes them: one alone, or several by name."""
    return tensors[0] if len(tensors) == 1 else dict(zip(call.names, tensors, strict=True))
