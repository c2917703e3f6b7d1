"""Model families whose plan is known exactly: a registry, so that a new family is one new file."""

from collections.abc import Callable, Sequence

from torch import nn

from ..errors import StagesError
from ..registry import Registry
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


def known_runs(model: nn.Module) -> Sequence[Run] | None:
    """The runs of a model that a family knows; None for all others."""
    for planner in FAMILIES.values():
        runs = planner(model)
        if runs is not None:
            return runs
    return None
