"""Wrappers around a model, and how they change the names of its tensors: compilers, processes, averages."""

from torch import nn
from torch.nn.parameter import is_lazy

from .errors import AdaptiveDepthError

COMPILED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # names that no model uses
# By name, so that their libraries need not be imported.
_MODULE = {"DataParallel", "DistributedDataParallel", "AveragedModel", "ModelEmaV2", "ModelEmaV3", "DeepSpeedEngine"}


def wrapped_at(module: nn.Module) -> str | None:
    """The attribute under which a wrapper holds its model; None for a module that is not a wrapper.

    Example:
        >>> wrapped_at(nn.DataParallel(nn.ReLU())), wrapped_at(nn.ReLU())
        ('module', None)
    """
    inside = next((name for name in COMPILED if name in module._modules), None)
    if inside is None and "module" in module._modules and _MODULE & {kind.__name__ for kind in type(module).__mro__}:
        return "module"
    return inside


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside all wrappers; a plain module itself."""
    while (name := wrapped_at(module)) is not None:
        module = module.get_submodule(name)
    return module


def plain_names(module: nn.Module) -> dict[str, str]:
    """The names in a module's state dict, mapped to those without the wrappers inside it.

    Example:
        >>> plain_names(nn.Sequential(nn.DataParallel(nn.BatchNorm1d(1, affine=False, track_running_stats=False))))
        {}
        >>> plain_names(nn.Sequential(nn.DataParallel(nn.Linear(1, 1, bias=False))))
        {'0.module.weight': '0.weight'}
    """
    wrappers = {path: name for path, each in module.named_modules() if (name := wrapped_at(each)) is not None}
    plain = {}
    for name in module.state_dict():
        parts = name.split(".")
        kept = [part for place, part in enumerate(parts) if wrappers.get(".".join(parts[:place])) != part]
        plain[name] = ".".join(kept)
    return plain


def without(name: str, parts: tuple[str, ...]) -> str:
    """A name without some of its dotted components.

    Example:
        >>> without("layer1._orig_mod.0.weight", COMPILED)
        'layer1.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in parts) if parts else name


def check_shaped(module: nn.Module, what: str, error: type[AdaptiveDepthError]) -> None:
    """Raise `error` if tensors only get their shapes with the first input (`nn.LazyLinear`)."""
    lazy = [name for name, tensor in module.state_dict(keep_vars=True).items() if is_lazy(tensor)]
    if lazy:
        raise error(
            f"{what} a {type(module).__name__} that never ran: {', '.join(lazy[:3])} have no shape yet; first run it "
            "once on an input, model(x)"
        )
