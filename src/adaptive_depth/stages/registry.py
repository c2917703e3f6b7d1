"""Model families whose plan is known exactly: a registry, so that a new family is one new file."""

from collections.abc import Callable

from torch import nn

from ..errors import StagesError
from .plan import Stages

Planner = Callable[[nn.Module], Stages | None]
_FAMILIES: dict[str, Planner] = {}


def family(name: str) -> Callable[[Planner], Planner]:
    """Register a function that returns the stages of the models it knows, and None for all others."""

    def register(planner: Planner) -> Planner:
        if name in _FAMILIES:
            raise StagesError(f"family {name!r} is registered twice; known: {', '.join(_FAMILIES)}")
        _FAMILIES[name] = planner
        return planner

    return register


def families() -> tuple[str, ...]:
    """The names of all registered families."""
    return tuple(_FAMILIES)


def find_stages(model: nn.Module) -> Stages:
    """The stages of a model of a known family, cut as the paper cuts them (sections 3.1 and 4.1).

    Arguments:
        model: a ResNet of timm or torchvision (18 to 152, wide, ResNeXt).

    Returns:
        The plan that `adapt` applies. Nothing in the model is changed.

    Raises:
        StagesError: no family knows the model, or none of its stages has two blocks.

    Example:
        >>> import torchvision
        >>> print(find_stages(torchvision.models.resnet50()))
        stage            mandatory skippable  skip-aware norms
        layer1                   2         1                 6
        layer2                   2         2                 6
        layer3                   3         3                 9
        layer4                   2         1                 6
    """
    for planner in _FAMILIES.values():
        stages = planner(model)
        if stages is not None:
            if not len(stages):
                raise StagesError(
                    f"{type(model).__name__} has no residual stage of two or more blocks, so there is none to cut"
                )
            return stages
    raise StagesError(
        f"{type(model).__name__} belongs to no known family ({', '.join(_FAMILIES)}): if it is residual, name its "
        "stages by hand in Python, adapt(model, stages=[Stage(mandatory=('layer1.0',), skippable=('layer1.1',)), ...])"
    )
