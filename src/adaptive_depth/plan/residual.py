"""Does a block return its input plus something? Tested on the block itself, with numbers like its real input.

Three tests set the block's weights to zero, which leaves only the shortcut; a fourth looks for the addition itself, and
so needs no weights (a Fourier transform between norms has none). During the tests parameters keep their identity; only
their data is exchanged.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .calls import Call, as_now, hidden_of
from .frozen import is_frozen
from .norms import is_norm


def is_residual(block: nn.Module, call: Call) -> bool:
    """Does a block return its input plus something?"""
    hidden = hidden_of(call)
    assert hidden is not None
    given, change = _like(hidden, seed=0), 0.1 * _signed_noise(hidden, seed=1)
    asked = _Asked(block)
    return (
        _returns_input(asked, call, given)
        or _passes_change_on(asked, call, given, change)
        or _norm_of_input(asked, call, given, change)
        or _adds_to_input(block, call, given)
    )


def why_another_input(block: nn.Module, call: Call) -> str | None:
    """The reason, in words, if a block adds to a later input instead of the first; else None."""
    given = call.given
    for place, value in enumerate(given[1:], 1):
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape == call.output_shape:
            swapped = [value, *given[1:place], given[0], *given[place + 1 :]]
            asked = replace(call, args=tuple(swapped), kwargs={}, names=())
            try:
                adds = is_residual(_Swapped(block, place), asked)
            except Exception:  # noqa: BLE001 - such as keyword-only inputs
                continue
            if adds:
                name = call.names[place] if place < len(call.names) else f"number {place + 1}"
                return (
                    f"it adds to its input {name!r} and not to the first, which is passed on where a block is skipped: "
                    f"let its forward take {name!r} first, and call it so"
                )
    return None


class _Swapped(nn.Module):
    """A block whose first input is swapped with a later one."""

    def __init__(self, block: nn.Module, place: int) -> None:
        super().__init__()
        self.block, self.place = block, place

    def forward(self, *args: Any) -> Any:
        inputs = [*args]
        inputs[0], inputs[self.place] = inputs[self.place], inputs[0]
        return self.block(*inputs)


class _Asked:
    """A block, and what every test needs of it."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.norms = [(path, part) for path, part in block.named_modules() if is_norm(part)]
        self.parameters: dict[str, Tensor] = dict(block.named_parameters())
        for path, part in self.norms:  # frozen ones have buffers instead of parameters
            for name in ("weight", "bias") if is_frozen(part) else ():
                if (buffer := part._buffers.get(name)) is not None:
                    self.parameters[f"{path}.{name}".lstrip(".")] = buffer
        inside = tuple(f"{path}." for path, _ in self.norms if path) or ("\0",)
        self.of_norms = {name for name in self.parameters if name.startswith(inside)}
        self.nan_is_zero = False  # do layers that return NaN with zero weights count as returning zeros?

    @contextmanager
    def at_nought(self, names: Iterable[str]) -> Iterator[None]:
        """Set parameters to zero inside; objects, ties and all other numbers stay."""
        parameters = {id(self.parameters[name]): self.parameters[name] for name in names}
        before = [(parameter, parameter.data) for parameter in parameters.values()]
        handles = []
        if self.nan_is_zero:
            layers = {name.rpartition(".")[0] for name in self.parameters}
            parts = [
                part
                for name, part in self.block.named_modules()
                if ((name and name in layers) or hasattr(part, "parametrizations"))
                and not isinstance(part, torch.jit.ScriptModule)
            ]
            handles = [part.register_forward_hook(_finite) for part in parts]
        try:
            # Exchanged rather than overwritten, so that no weights are copied and restoring is exact.
            for parameter, data in before:
                parameter.data = torch.zeros_like(data)
            yield
        finally:
            for parameter, data in before:
                parameter.data = data
            for handle in handles:
                handle.remove()


def has_weights(module: nn.Module) -> bool:
    """Does it have parameters of two or more dimensions: of convolutions, linear layers, embeddings?"""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _returns_input(asked: _Asked, call: Call, given: Tensor) -> bool:
    """h + F(h) with every parameter of F zero is h. (So is relu(h + F(h)), if h itself is the output of a relu.)

    A weight computed from others as `v * (g / norm(v))` is then 0 / 0. It should be zero, and so should the output of
    its layer.
    """
    with asked.at_nought(asked.parameters):
        output = _output_on(asked.block, call, given)
    if not torch.isfinite(output).all() and torch.isfinite(given).all():
        asked.nan_is_zero = True
        with asked.at_nought(asked.parameters):
            output = _output_on(asked.block, call, given)
    return _close(output, given)


def _passes_change_on(asked: _Asked, call: Call, given: Tensor, change: Tensor) -> bool:
    """With weights and norms zero a change of h passes through unchanged, even with a scale of 1 on the shortcut."""
    names = [name for name, value in asked.parameters.items() if value.ndim > 1 or name in asked.of_norms]
    with asked.at_nought(names):
        answer = _output_on(asked.block, call, given + change) - _output_on(asked.block, call, given)
    return _close(answer, change)


def _norm_of_input(asked: _Asked, call: Call, given: Tensor, change: Tensor) -> bool:
    """norm(h + F(h)): with zero weights, the output of the last norm still follows h."""
    returned: list[Any] = []
    handles = [norm.register_forward_hook(lambda _, __, output: returned.append(output)) for _, norm in asked.norms]
    names = [name for name, value in asked.parameters.items() if value.ndim > 1 and name not in asked.of_norms]
    with asked.at_nought(names):
        try:
            before = _output_on(asked.block, call, given)
        finally:
            for handle in handles:
                handle.remove()
        place = before.untyped_storage().data_ptr()  # the same numbers, perhaps in another shape
        if not any(isinstance(output, Tensor) and output.untyped_storage().data_ptr() == place for output in returned):
            return False
        answer = _output_on(asked.block, call, given + change) - before
    # A norm rescales the change, so only its direction is compared, with some tolerance.
    return bool(nn.functional.cosine_similarity(answer.flatten().float(), change.flatten().float(), dim=0) > 0.8)


def _adds_to_input(block: nn.Module, call: Call, given: Tensor) -> bool:
    """Is the output the sum of the input and something, at most normalised?"""
    given = given.clone()
    trunk = _Trunk(given)
    handles = [
        part.register_forward_hook(trunk.after_norm)
        for part in block.modules()
        if is_norm(part) and not isinstance(part, torch.jit.ScriptModule)
    ]
    try:
        with trunk:
            # The trunk knows `given` by its id, so the block must receive this very tensor.
            output = _output_on(block, call, given, copied=False)
    finally:
        for handle in handles:
            handle.remove()
    return trunk.state(output) == "sum"


class _Trunk(TorchDispatchMode):
    """Follows a block's input through operations: which tensors are the input itself, and which a sum with it."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.states: dict[int, tuple[Tensor, str]] = {id(given): (given, "input")}  # kept alive, so ids stay theirs

    def state(self, value: Any) -> str | None:
        return self.states.get(id(value), (None, None))[1] if isinstance(value, Tensor) else None

    def after_norm(self, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """norm(h + F(h)) is still a sum; norm(h) is not."""
        if inputs and self.state(inputs[0]) == "sum" and isinstance(output, Tensor):
            self.states[id(output)] = (output, "sum")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        # In-place variants (`add_`) follow the same rules.
        name = func.overloadpacket.__name__.rstrip("_")
        first = output[0] if isinstance(output, tuple) and output else output
        state = self._after(name, args, first)
        if isinstance(first, Tensor):
            if state is None:
                self.states.pop(id(first), None)  # changed in place into something else
            else:
                self.states[id(first)] = (first, state)
        return output

    def _after(self, name: str, args: Any, output: Any) -> str | None:
        states = [self.state(value) for value in args]
        if not any(states):
            return None
        if name in _SUMS:
            # Neither a broadcast bias nor a parameter (a position embedding) is a second branch.
            whole = [value for value in args[:2] if isinstance(value, Tensor) and value.shape == output.shape]
            sums = len(whole) == 2 and not any(isinstance(value, nn.Parameter) for value in whole)
            return "sum" if sums else next(state for state in states if state)
        if name in _RESHAPED:
            return states[0]
        return states[0] if states[0] == "sum" and name in _NORMS else None


_SUMS = frozenset({"add", "addcmul"})
_RESHAPED = frozenset(
    [
        "view",
        "reshape",
        "_unsafe_view",
        "permute",
        "transpose",
        "t",
        "clone",
        "contiguous",
        "detach",
        "alias",
        "squeeze",
        "unsqueeze",
        "_to_copy",
        "to",
        "flatten",
        "unflatten",
        "_reshape_alias",
        "native_dropout",
        "dropout",
        "expand",
        "as_strided",
        "lift_fresh",
    ]
)
_NORMS = frozenset(
    [
        "native_layer_norm",
        "native_group_norm",
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
        "_fused_rms_norm",
        "rms_norm",
    ]
)


def _finite(_: nn.Module, __: Any, output: Any) -> Any:
    if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
        return torch.zeros_like(output)
    return None


def _close(a: Tensor, b: Tensor) -> bool:
    size = float(b.abs().max())
    return torch.allclose(a.to(b.dtype), b, rtol=1e-3, atol=1e-3 * size)


def _output_on(block: nn.Module, call: Call, given: Tensor, *, copied: bool = True) -> Tensor:
    """A block's output for another input, with everything else as in a call."""
    given = given.clone() if copied else given  # a block may change its input
    args, kwargs = as_now(call.args, call.kwargs)
    if args:
        output = call.context.run(block, given, *args[1:], **kwargs)
    else:
        hidden = hidden_of(call)
        name = next(name for name, value in call.kwargs.items() if value is hidden)
        output = call.context.run(block, **{**kwargs, name: given})
    return output if isinstance(output, Tensor) else output[0]


def _like(hidden: Tensor, seed: int) -> Tensor:
    """A tensor's numbers, shuffled; noise if all of them are equal.

    Noise has no negative numbers if the tensor has none, as after a relu.
    """
    if not torch.isfinite(hidden).all() or float(hidden.float().std()) < 1e-6:
        noise = _signed_noise(hidden, seed)
        return noise if (hidden < 0).any() else noise.abs()
    generator = torch.Generator(hidden.device).manual_seed(seed)
    order = torch.randperm(hidden.numel(), generator=generator, device=hidden.device)
    return hidden.flatten()[order].view_as(hidden)


def _signed_noise(like: Tensor, seed: int) -> Tensor:
    """Numbers from -1 to 1."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return (2 * torch.rand(like.shape, generator=generator, device=like.device) - 1).to(like.dtype)
