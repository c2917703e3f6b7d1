"""Stochastic depth (Huang et al. 2016) by whatever name: off in mandatory sub-paths, which always run."""

from torch import nn

from ..errors import StagesError

_NAMES = ("droppath", "stochasticdepth", "stochdepth", "dropconnect", "dropbranch", "dropres", "droplayer", "layerdrop")
_RATES = (
    "drop_prob",
    "drop_path_prob",
    "drop_path_rate",
    "drop_path",
    "drop_rate",
    "drop_p",
    "drop",
    "rate",
    "prob",
    "p",
)
_KEPT = ("keep_prob", "survival_prob", "keep_rate", "survival_rate", "keep")


# Rates on blocks that call a function with them.
_OF_BLOCKS = {
    **dict.fromkeys(("drop_path", "drop_path_prob", "drop_path_rate", "drop_connect", "drop_connect_rate"), 0.0),
    **dict.fromkeys(("stochastic_depth", "stochastic_depth_prob", "stochastic_depth_rate", "layerdrop"), 0.0),
    **dict.fromkeys(("survival_prob", "survival_rate"), 1.0),
}


def switch_off_stochastic_depth(module: nn.Module) -> None:
    """Make a layer of stochastic depth drop nothing: timm's, torchvision's, transformers', or a custom one.

    Likewise a block that has a rate with an unambiguous name.

    Raises:
        StagesError: a layer with the name of one, but without a known rate.
    """
    for attribute, never in _OF_BLOCKS.items():
        # Only a number: `drop_path` may also be a module.
        if isinstance(vars(module).get(attribute), float):
            setattr(module, attribute, never)
    name = type(module).__name__.lower().replace("_", "")
    # A container with such a name is not the layer itself.
    if not any(known in name for known in _NAMES) or any(True for _ in module.children()):
        return
    found = False
    for attributes, never in ((_RATES, 0.0), (_KEPT, 1.0)):
        for attribute in attributes:
            value = getattr(module, attribute, None)
            if isinstance(value, int | float) and not isinstance(value, bool):
                setattr(module, attribute, never)
                found = True
            elif value is None and attribute in vars(module):
                found = True  # no rate was given, so nothing is dropped
    if not found:
        raise StagesError(
            f"{type(module).__name__} looks like stochastic depth, which must be off in mandatory sub-paths, but has "
            f"no rate with a known name ({', '.join(_RATES[:3])}, {', '.join(_KEPT[:2])}, ...): set it to drop "
            "nothing and give it such an attribute, or rename the class"
        )
