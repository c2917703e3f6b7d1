"""Models by name, from timm or torchvision, and where a model came from: a value that survives JSON."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

import timm
import torch
import torchvision
from torch import nn
from torch.nn.parameter import is_lazy

from .dense import FROZEN, brought_along, builders_of, freeze_norms, is_detector, same_options
from .errors import ModelError, one_line
from .hugging_face import built_from, config_of, is_of_transformers, short_input
from .packages import hint
from .schema import Plain
from .wrapping import plain_names

NAMESPACES = ("timm", "torchvision", "transformers")  # that a name may begin with


@dataclass(frozen=True)
class Source(Plain):
    """How to rebuild a model: `create_model(name, **arguments)`.

    Attributes:
        name: a timm name (``"resnet50"``), ``"torchvision/"`` and a torchvision name, or ``"transformers/"`` and a
            transformers class, which is built from its config.
        arguments: keyword arguments of its constructor, as JSON values.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


# What downloads or reads trained weights: not part of an architecture, and a saved network may not ask for it.
WEIGHT_ARGUMENTS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
    | {"weights", "weights_backbone"}
)


_sources: WeakKeyDictionary[nn.Module, Source] = WeakKeyDictionary()


def create_model(name: str, *, pretrained: bool = False, **arguments: Any) -> nn.Module:
    """A model of timm or torchvision by name; `save` remembers how it was built.

    Arguments:
        name: a timm name (``"resnet50"``), ``"torchvision/resnet50"``, or ``"transformers/LlamaForCausalLM"`` with
            ``config=`` (for trained weights, use `from_pretrained` of transformers).
        pretrained: load the library's trained weights.
        **arguments: whatever the model's constructor takes, such as ``num_classes=10``; for a torchvision detector
            also ``frozen_norms=``, the ε of frozen BatchNorms in its body, which come with its trained weights.

    Raises:
        ModelError: an unknown name (similar ones are listed), an argument that the model does not take, or trained
            weights that cannot be downloaded.

    Example:
        >>> sum(p.numel() for p in create_model("torchvision/resnet18").parameters())
        11689512
    """
    library, _, short = name.rpartition("/")
    if library not in ("", *NAMESPACES):
        raise ModelError(f"model {name!r}: expected a timm name such as 'resnet50', or 'torchvision/resnet50'")
    if library == "transformers":
        return _of_transformers(name, short, pretrained, arguments)
    try:
        if library == "torchvision":
            weights = "DEFAULT" if pretrained else None
            known = torchvision.models.list_models()
            model = None
            if short in known:
                takes = signature(torchvision.models.get_model_builder(short)).parameters
                nothing_else = {"weights_backbone": None} if "weights_backbone" in takes else {}  # no download unasked
                given = {key: value for key, value in arguments.items() if key != FROZEN}
                model = torchvision.models.get_model(short, weights=weights, **nothing_else | given)
                freeze_norms(model, arguments.get(FROZEN))
        else:
            known = timm.list_models()
            exists = timm.is_model(short)
            model = timm.create_model(short, pretrained=pretrained, **arguments) if exists else None
    except Exception as error:  # constructors, hubs and networks raise errors of any kind
        said = one_line(error)
        if pretrained:
            raise ModelError(
                f"model {name!r} cannot be built with trained weights ({said}): they are downloaded, so check that "
                f"this machine has network access and {library or 'timm'} has weights for {short!r}; without "
                "pretrained nothing is downloaded"
            ) from error
        raise ModelError(f"model {name!r} cannot be built with {arguments!r}: {said}") from error
    if model is None:
        near = get_close_matches(short, known, n=4, cutoff=0.4)
        every = "torchvision.models.list_models()" if library == "torchvision" else "timm.list_models()"
        fix = f"similar names are {', '.join(near)}" if near else f"see {every}"
        raise ModelError(f"{library or 'timm'} has no model {short!r}: {fix}")
    kept = {key: value for key, value in arguments.items() if key not in WEIGHT_ARGUMENTS}
    _sources[model] = Source(name, (brought_along(model) if pretrained and library == "torchvision" else {}) | kept)
    return model


def _of_transformers(name: str, short: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    if pretrained:
        raise ModelError(
            f"model {name!r} with pretrained weights: call transformers.{short}.from_pretrained(folder or name) "
            "and adapt the result"
        )
    try:
        model = built_from(short, **arguments)
    except ImportError as error:
        raise ModelError(f"model {name!r} needs {hint(error, 'language')}") from error
    except Exception as error:
        raise ModelError(f"model {name!r} cannot be built from its config: {one_line(error)}") from error
    kept = config_of(model)
    if kept is not None:
        _sources[model] = Source(name, kept)
    return model


@contextmanager
def no_larger_than(parts: int, numbers: int) -> Iterator[None]:
    """Inside, this thread can build at most this many parts (modules, parameters, buffers) and numbers in them.

    A layer is refused when it is registered, before anything is written into its memory, which until then is only
    reserved. So a file that names a huge model can exhaust neither memory nor time.

    Raises:
        ModelError: at the first layer above a limit.
    """
    left, thread = [parts, numbers], get_ident()

    def count(_: nn.Module, name: str, part: Any) -> None:
        if get_ident() == thread and part is not None:
            left[0] -= 1
            left[1] -= part.numel() if isinstance(part, torch.Tensor) and not is_lazy(part) else 0
            if min(left) < 0:
                raise ModelError(f"it is far larger than its weights, noticed at {name!r}")

    of_torch = torch.nn.modules.module
    with ExitStack() as hooks:
        for register in (
            of_torch.register_module_module_registration_hook,
            of_torch.register_module_parameter_registration_hook,
            of_torch.register_module_buffer_registration_hook,
        ):
            hooks.callback(register(count).remove)
        yield


def usual_input(model: nn.Module) -> Any:
    """A small noise input for a model of timm, torchvision, transformers or segmentation_models_pytorch.

    None for other models. For a torchvision detector it is a tuple with a list of images.

    Example:
        >>> usual_input(create_model("resnet18")).shape
        torch.Size([1, 3, 224, 224])
    """
    if is_of_transformers(model):
        return short_input(model)
    module = type(model).__module__
    if module.startswith("timm."):
        config = getattr(model, "pretrained_cfg", None) or {}
        size = tuple(config.get("input_size") or (3, 224, 224))
        asked = getattr(remembered_source(model), "arguments", {}).get("img_size")
        own = asked or getattr(getattr(model, "patch_embed", None), "img_size", None)
        own = (own, own) if isinstance(own, int) else own
        size = (size[0], *own) if own else size
    elif module.startswith("torchvision.models."):
        size = (3, 299, 299) if "inception" in module else (3, 224, 224)
    elif module.startswith("segmentation_models_pytorch."):
        size = (3, 224, 224)
    else:
        return None
    convolution = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    seen = size[0] if convolution is None else convolution.in_channels
    channels = seen if seen <= 16 else size[0]  # more are features, not an image
    first = next(model.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, channels, *size[1:], generator=generator).to(first.device, first.dtype)
    return ([images[0].sigmoid()],) if is_detector(model) else images


def one_argument(model: nn.Module, example: Any) -> Any:
    """An example for the model; plain images, as a torchvision detector takes them, become its single argument."""
    plain = isinstance(example, list | tuple) and bool(example)
    images = plain and all(isinstance(each, torch.Tensor) and each.ndim == 3 for each in example)
    return (list(example),) if images and is_detector(model) else example


def remembered_source(model: nn.Module) -> Source | None:
    """The source that `create_model` recorded for a model that it built."""
    return _sources.get(model)


def source_of(model: nn.Module, remembered: Source | None = None) -> Source | None:
    """How a model was built: recorded by `create_model`, else found by trial for models of timm and torchvision.

    Arguments:
        model: the model.
        remembered: its source, if already known.

    Returns:
        A source whose model has the same modules, options and shapes as `model`; None if none was found.
    """
    if is_of_transformers(model):
        kept = config_of(model)  # as it is now: changing a model may change its config
        return None if kept is None else _tried(model, Source(f"transformers/{type(model).__name__}", kept))
    remembered = remembered or remembered_source(model)
    # Candidates are built on the meta device, where a model costs no memory.
    wanted, shapes = repr(model), _shapes(model)
    for source in [remembered] if remembered else _candidates(model):
        try:
            with torch.device("meta"):
                built = create_model(source.name, **source.arguments)
        except Exception:  # noqa: BLE001 - a candidate is a guess: whatever it raises, it is the wrong one
            if source is remembered:
                return source  # it was built once, so it can be rebuilt, if not on the meta device
            continue
        if _shapes(built) == shapes and (
            source is remembered or (repr(built) == wanted and same_options(built, model))
        ):
            return source
    return None


def _tried(model: nn.Module, source: Source) -> Source | None:
    """The source, if its model has the same modules and shapes."""
    try:
        with torch.device("meta"):
            built = create_model(source.name, **source.arguments)
    except ModelError:
        return None
    return source if _shapes(built) == _shapes(model) else None


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Of all tensors: they reveal a replaced head or another image size."""
    names = plain_names(model)
    return {
        names[name]: tensor.shape for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)
    }


def _candidates(model: nn.Module) -> list[Source]:
    """Sources that may have built a model, judging by its attributes; `source_of` tries them."""
    module = type(model).__module__
    if module.startswith("timm."):
        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
        convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
        arguments: dict[str, Any] = {"num_classes": getattr(model, "num_classes", 1000)}
        if convolutions and convolutions[0].in_channels != 3:
            arguments["in_chans"] = convolutions[0].in_channels
        return [Source(name, arguments)] if name else []
    if module.startswith("torchvision.models."):
        linears = [part for part in model.modules() if isinstance(part, nn.Linear)]
        arguments = {"num_classes": linears[-1].out_features} if linears else {}
        if named := builders_of(model):
            return [Source(f"torchvision/{name}", more) for name, more in named]
        names = set(getattr(import_module(module), "__all__", ())) & set(torchvision.models.list_models())
        return [Source(f"torchvision/{name}", arguments) for name in sorted(names)]
    return []
