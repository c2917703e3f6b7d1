"""A module → the graph that an exporter reads; errors name the block that cannot be traced."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..batches import taken_from
from ..errors import ExportError, one_line
from ..modes import without_fast_paths
from .artifact import Input
from .inputs import Call

MOST_SAID = 300  # characters of another library's message
MOST_NAMED = 3  # operators
_SPECIALISED = re.compile(r"marked .* as dynamic but your code specialized it")
_WRAPPER = re.compile(r"^(view|model)(\.|$)")  # contains the user's model
_WRAPPED = re.compile(r"\.(skippable_block|by_context\.[TF]+)(?=\.|$)")  # what `Switching` puts around a block


class Outputs(nn.Module):
    """A network that returns only the named outputs, in that order, or the logits."""

    def __init__(self, model: nn.Module, names: Sequence[str], call: Call | None = None) -> None:
        super().__init__()
        self.model, self.names, self.call = model, tuple(names), call or Call()

    def forward(self, *inputs: Tensor) -> Any:
        return apart(taken_from(self.call(self.model, inputs), self.names), inputs)


def apart(outputs: Any, inputs: Iterable[Tensor] = ()) -> Any:
    """The same outputs without repeated tensors: a graph can have each value as an output only once.

    Repeats are recomputed by a multiplication, because exporters see through a copy.
    """
    if not isinstance(outputs, dict):
        return outputs
    seen = {id(each) for each in inputs}  # an output that is an input would lose its name
    found = {}
    for name, output in outputs.items():
        again = id(output) in seen
        found[name] = output * torch.ones((), dtype=output.dtype) if again else output
        seen.add(id(output))
    return found


class FixedBatchError(ExportError):
    """A network whose code makes a constant of the batch size (`len(x)`), so that a graph fixes it."""


def with_free_sides(
    tensors: Iterable[Tensor], inputs: Iterable[Input]
) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """The tensors of an example for tracing and their free dimensions, those that an artifact's inputs leave open.

    A free batch has two or more samples: `torch.export` would specialise on a batch size of one.
    """
    free = tuple(
        dict.fromkeys((place for place, side in enumerate(each.shape) if side is None), torch.export.Dim.DYNAMIC)
        for each in inputs
    )
    enough = (
        torch.cat([tensor, tensor]) if 0 in sides and len(tensor) == 1 else tensor
        for tensor, sides in zip(tensors, free, strict=True)
    )
    return tuple(enough), free


def exported(module: nn.Module, args: tuple[Any, ...], *, dynamic_shapes: Any = None) -> ExportedProgram:
    """`torch.export.export`, with errors that name the submodule.

    Raises:
        FixedBatchError: code that makes a constant of a batch size that should be free.
        ExportError: code that cannot be traced, such as one that depends on the values of a tensor.
    """
    with _calls() as calls, quiet():
        try:
            with without_fast_paths():  # fused attention, which no exporter supports
                return torch.export.export(module, args, dynamic_shapes=dynamic_shapes, strict=False)
        except Exception as error:
            names = {_identity(part): path for path, part in module.named_modules()}
            inside = next((names[call] for call in reversed(calls) if names.get(call)), type(module).__name__)
            said = one_line(error)[:MOST_SAID]
            kind = FixedBatchError if _SPECIALISED.search(said) else ExportError
            raise kind(f"torch.export cannot trace {block_name(inside)}: {said}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warning about torchvision's suppression calling a torch function by its former name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*create_unbacked_symint", FutureWarning)
        yield


def cannot_convert(what: str, programs: Iterable[ExportedProgram], error: BaseException) -> ExportError:
    """The error for a library that cannot convert a graph, with the operators that it names and their origin.

    Arguments:
        what: the library.
        programs: its inputs.
        error: what it raised; its causes are read, too.
    """
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(one_line(cause))
        cause = cause.__cause__
    operators = sorted(set(_named(programs, " ".join(said))))[:MOST_NAMED]
    where = f"the operator {' and '.join(operators)}" if operators else "the network"
    return ExportError(f"{what} cannot take {where}: {said[-1][:MOST_SAID]}")


def block_name(path: str) -> str:
    """The path of a module in the user's model, without the wrappers of exporters."""
    return _WRAPPED.sub("", _WRAPPER.sub("", path)) or "the network"


@contextmanager
def _calls() -> Iterator[list[int]]:
    """The identities of the modules that this thread is inside, outermost first; after an error they remain."""
    calls: list[int] = []
    thread = get_ident()

    def enter(module: nn.Module, *_: Any) -> None:
        if get_ident() == thread:  # the hooks are global and see other threads' calls
            calls.append(_identity(module))

    def leave(*_: Any) -> None:
        if get_ident() == thread:
            calls.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _identity(module: nn.Module) -> int:
    """The identity of its attributes, which a module shares with its proxies in `torch.export`."""
    return id(vars(module))


def _named(programs: Iterable[ExportedProgram], said: str) -> Iterator[str]:
    for program in programs:
        for node in _nodes(program):
            schema = getattr(node.target, "_schema", None)
            if schema is not None and any(_says(said, name) for name in _names(node.target)):
                stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
                yield f"{schema.name} of {block_name(stack[-1] if stack else '')}"


def _nodes(program: ExportedProgram) -> Iterator[Any]:
    """The nodes of a program and, if possible, of its decomposition."""
    yield from program.graph.nodes
    with suppress(Exception):  # may fail for data-dependent sizes; the original error matters more
        yield from program.run_decompositions().graph.nodes


def _names(operator: Any) -> tuple[str, ...]:
    """How libraries name an operator: `aten.sum.default`, `aten.sum`, `aten::sum`.

    Or as the primitive that they turned it into: `prims.bessel_j0` for `aten::special_bessel_j0`.
    """
    name = operator._schema.name
    primitive = f"prims.{name.partition('::')[2].removeprefix('special_')}"
    return f"{operator}", f"{operator}".removesuffix(".default"), name, primitive


def _says(said: str, name: str) -> bool:
    """Whether a text mentions a name, not just as part of a longer one."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", said) is not None
