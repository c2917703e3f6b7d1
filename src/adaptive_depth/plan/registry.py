"""Model families whose plan is known exactly: a registry, so that a new family is one new file."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from ..errors import StagesError
from ..registry import Registry
from .bodies import WHOLE, held_at
from .plan import Run

Planner = Callable[[nn.Module], Sequence[Run] | None]
FAMILIES: Registry[Planner] = Registry("family", StagesError)


def family(name: str) -> Callable[[Planner], Planner]:
    """Register a function that returns the runs of residual blocks of the models it knows, and None for all others.

    Raises:
        StagesError: a name that is taken.
    """
    return FAMILIES.register(name)


def families() -> tuple[str, ...]:
    """The names of all registered families."""
    return tuple(FAMILIES)


def known_runs(model: nn.Module, within: Sequence[str] = WHOLE) -> Sequence[Run] | None:
    """The runs of a model that a family knows; None for all others.

    Arguments:
        model: any.
        within: the modules to look up, by default the whole model. All of them must be known.
    """
    found: list[Run] = []
    for path in within:
        runs = _known(model.get_submodule(path))
        if runs is None:
            return None
        found += [_below(path, run) for run in runs] if path else runs
    return found


def _known(model: nn.Module) -> Sequence[Run] | None:
    for planner in FAMILIES.values():
        runs = planner(model)
        if runs is not None:
            return runs
    inside = held_at(model)
    runs = None if inside is None else _known(model.get_submodule(inside))
    return None if runs is None else [_below(str(inside), run) for run in runs]


def _below(path: str, run: Run) -> Run:
    """The run of a body, with the module names of the model around it."""
    prefix, norms_of = f"{path}.", run.norms

    def norms(mandatory: Sequence[str]) -> list[str]:
        assert norms_of is not None
        return [f"{prefix}{norm}" for norm in norms_of([block.removeprefix(prefix) for block in mandatory])]

    blocks = tuple(f"{prefix}{block}" for block in run.blocks)
    return replace(run, blocks=blocks, norms=norms_of and norms, name=f"{prefix}{run.name}" if run.name else "")
