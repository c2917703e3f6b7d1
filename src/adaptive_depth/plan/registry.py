"""Model families whose plan is known exactly: a registry, so that a new family is one new file."""

from collections.abc import Callable, Sequence

from torch import nn

from ..errors import StagesError
from .plan import Run

Planner = Callable[[nn.Module], Sequence[Run] | None]
_FAMILIES: dict[str, Planner] = {}


def family(name: str) -> Callable[[Planner], Planner]:
    """Register a function that returns the runs of residual blocks of the models it knows, and None for all others.

    Raises:
        StagesError: a name that is taken.
    """

    def register(planner: Planner) -> Planner:
        if name in _FAMILIES:
            raise StagesError(f"family {name!r} is registered twice; known: {', '.join(_FAMILIES)}")
        _FAMILIES[name] = planner
        return planner

    return register


def families() -> tuple[str, ...]:
    """The names of all registered families."""
    return tuple(_FAMILIES)


def known_runs(model: nn.Module) -> Sequence[Run] | None:
    """The runs of a model that a family knows; None for all others."""
    for planner in _FAMILIES.values():
        runs = planner(model)
        if runs is not None:
            return runs
    return None
