"""Facts about any transformers model; that library is imported only where it is needed."""

import inspect
import sys
from collections.abc import Callable, Mapping
from math import isfinite
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn


def is_of_transformers(model: nn.Module) -> bool:
    """Is it a model of transformers, or a subclass of one?"""
    base = sys.modules.get("transformers.modeling_utils")
    return base is not None and isinstance(model, base.PreTrainedModel)


def writes_text(model: nn.Module) -> bool:
    """Is it a model of transformers with `generate`, which continues a text from a cache?"""
    return is_of_transformers(model) and bool(model.can_generate())  # type: ignore[operator]


def predicts_the_next_token(model: nn.Module) -> bool:
    """Is it a causal language model: one that generates text with a decoder only?"""
    return writes_text(model) and not model.config.is_encoder_decoder  # type: ignore[union-attr]


def keeps_a_state(model: Any) -> bool:
    """Does it carry a state from token to token, as Mamba does, instead of the keys and values of each?"""
    return bool(getattr(model, "_is_stateful", False))


def context_of(model: Any) -> int | None:
    """The most tokens that a transformers language model accepts; None if there is no limit."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return known if isinstance(known, int) and known > 0 else None


def vocabulary_of(model: Any) -> int | None:
    """The vocabulary size of a transformers language model: the rows of its embedding; None if it has none."""
    try:
        rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:  # what transformers raises for a model without one
        rows = None
    known = getattr(model.config.get_text_config(), "vocab_size", None) if rows is None else rows
    return known if isinstance(known, int) and known > 0 else None


def foreign_tokens(model: Any, ids: Tensor) -> str | None:
    """The error for token ids that a model does not know, which would crash its embedding; else None.

    Arguments:
        model: of transformers.
        ids: whole numbers of any shape, at least one.
    """
    words = vocabulary_of(model)
    low, high = torch.stack(ids.aminmax()).tolist()  # in one transfer from the device
    if low >= 0 and (words is None or high < words):
        return None
    return (
        f"token ids from {low} to {high}, but the model knows 0 to {'...' if words is None else words - 1}: "
        "expected the ids of the model's own tokenizer"
    )


# As named by their own checkpoints; the library itself names none for these configs.
_PROCESSORS = {
    "d_fine": "RTDetrImageProcessor",
    "rt_detr_v2": "RTDetrImageProcessor",
    "dab-detr": "ConditionalDetrImageProcessor",
}


def image_processor_of(config: Any) -> Any:
    """The image processor class of a transformers model; its attributes are the defaults.

    None if none is known.
    """
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    if config.model_type in _PROCESSORS:
        return getattr(transformers, _PROCESSORS[config.model_type])
    mapping: Any = IMAGE_PROCESSOR_MAPPING
    found = mapping.get(type(config), None)
    return found.get("torchvision") or found.get("pil") if isinstance(found, dict) else found


def layer_lists(model: nn.Module) -> list[list[str]]:
    """The paths of the layers in each list of layers of a transformers model, as that library marks them."""
    layers = sys.modules.get("transformers.modeling_layers")
    if layers is None or not is_of_transformers(model):
        return []
    lists = [(path, part) for path, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) > 1]
    return [
        [f"{path}.{number}" for number in range(len(part))]
        for path, part in lists
        if all(isinstance(layer, layers.GradientCheckpointingLayer) for layer in part)
    ]


def short_input(model: Any) -> dict[str, Tensor] | None:
    """A short input of a model of transformers, as keyword arguments; None if its config does not say.

    Two rows of eight tokens for text, noise of the configured size for images and sound.
    """
    config, name = model.config, model.main_input_name
    if name == "input_ids":
        tokens = _tokens(config.get_text_config())
        if tokens is None:
            return None
        return {name: tokens} | ({"decoder_input_ids": tokens} if config.is_encoder_decoder else {})
    generator = torch.Generator().manual_seed(0)
    if name == "pixel_values":
        size, channels = getattr(config, "image_size", 224), getattr(config, "num_channels", 3)
        sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
        return {name: torch.randn(1, channels, *sides, generator=generator)} if all(sides) else None
    if name == "input_features" and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        tokens = _tokens(config)
        sound = torch.randn(1, config.num_mel_bins, 2 * config.max_source_positions, generator=generator)
        return {name: sound} | ({} if tokens is None else {"decoder_input_ids": tokens[:1]})
    return None


# -- outputs of a model's layers --------------------------------------------------------------------------------

_CAPTURING, _INSTALLED = "transformers.utils.output_capturing", "_output_capturing_hooks_installed"


class _Capture:
    """A hook with which a transformers model collects the outputs of its layers, and which can be pickled.

    The library's own are closures, which cannot; a plain model has none until it first collects.
    """

    def __init__(self, run: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.run, self.arguments = run, dict(arguments)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self.run(module, args, output)

    def __reduce__(self) -> Any:
        return _capture, (self.arguments,)

    def __deepcopy__(self, _: Any) -> "_Capture":
        return self


def _capture(arguments: Mapping[str, Any]) -> Any:
    """The hook that transformers makes from these arguments."""
    from transformers.utils.output_capturing import install_output_capuring_hook

    bare = nn.Module()
    install_output_capuring_hook(bare, **arguments)
    return _Capture(next(iter(bare._forward_hooks.values())), arguments)


def prepare_capturing(model: nn.Module) -> None:
    """Install the hooks with which transformers models collect hidden states on every block, before any is skipped.

    A model installs them itself in its first call; in a sub-network's, the skipped blocks would get none.
    """
    capturing = sys.modules.get(_CAPTURING)
    if capturing is None:
        return
    for part in model.modules():
        if _code_of(inspect.getattr_static(type(part), "forward"), capturing.__file__):
            capturing.maybe_install_capturing_hooks(part)
    takes = inspect.signature(capturing.install_output_capuring_hook).parameters
    for part in model.modules():
        for key, hook in part._forward_hooks.items():
            if isinstance(hook, FunctionType) and _code_of(hook, capturing.__file__):
                held = inspect.getclosurevars(hook).nonlocals
                part._forward_hooks[key] = _Capture(hook, {name: held[name] for name in takes if name in held})


def forget_capturing(model: nn.Module) -> None:
    """The inverse of `prepare_capturing`: the model installs them again when it needs them."""
    for part in model.modules():
        part.__dict__.pop(_INSTALLED, None)
        for key in [key for key, hook in part._forward_hooks.items() if isinstance(hook, _Capture)]:
            del part._forward_hooks[key]


def _code_of(function: Any, file: str | None) -> bool:
    """Is a function, or one that it wraps, written in that file?"""
    while function is not None:
        if getattr(getattr(function, "__code__", None), "co_filename", "") == file:
            return True
        function = getattr(function, "__wrapped__", None)
    return False


# -- what is saved of a model -----------------------------------------------------------------------------------

_NOT_FINITE = "__float__"
_CODE = ("auto_map", "implementation", "kernel_config")  # entries of a config that may name third-party code
# Code or weights that are downloaded, or a file's choice of what runs: not part of an architecture.
_NEVER_KEPT = (*_CODE, "quantization_config", "_name_or_path", "transformers_version")


def code_asked_for(config: Any) -> dict[str, Any]:
    """The entries of a config, at any level, that ask for third-party code, which is never downloaded or run without
    consent.

    Example:
        >>> code_asked_for({"attn_implementation": "sdpa", "text_config": {"attn_implementation": "somebody/kernels"}})
        {'attn_implementation': 'somebody/kernels'}
    """
    found: dict[str, Any] = {}
    if isinstance(config, list | tuple):
        for each in config:
            found |= code_asked_for(each)
    for name, value in config.items() if isinstance(config, Mapping) else ():
        if not any(word in str(name) for word in _CODE):
            found = code_asked_for(value) | found
        elif value and ("implementation" not in str(name) or "/" in str(value)):  # built-in ones have no repository
            found.setdefault(str(name), value)
    return found


def config_of(model: Any) -> dict[str, Any] | None:
    """What rebuilds a transformers model, in plain values: its config and how it generates; None for a custom
    subclass."""
    import transformers

    if getattr(transformers, type(model).__name__, None) is not type(model):
        return None
    found = {"config": model.config.to_diff_dict()}
    if model.can_generate():
        found["generation_config"] = model.generation_config.to_diff_dict()
    return _architecture(found)


def built_from(name: str, config: Any, generation_config: Any = None) -> nn.Module:
    """The inverse of `config_of`: a model with random weights. Nothing is downloaded.

    Arguments:
        name: of a transformers class, such as `"LlamaForCausalLM"`.
        config: the fields of its config; also a config object.
        generation_config: how it generates, likewise.

    Raises:
        ValueError: a name that is no transformers model, or something other than a config.
    """
    import transformers

    kind = getattr(transformers, name, None)
    if not (
        isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) and hasattr(kind, "config_class")
    ):
        raise ValueError(f"transformers {transformers.__version__} has no model class {name!r}")
    fields = config if isinstance(config, dict) else config.to_dict() if hasattr(config, "to_dict") else None
    if fields is None:
        raise ValueError(f"config={config!r}: expected a dict, or a config of transformers")
    config_class: Any = kind.config_class
    model = kind(config_class.from_dict(_with_numbers(_architecture(fields))))
    if generation_config is not None:
        model.generation_config = transformers.GenerationConfig.from_dict(dict(generation_config))
    return model


def _architecture(value: Any) -> Any:
    """A config without entries that would download something."""
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if not any(word in str(name) for word in _NEVER_KEPT)}
        return {
            name: False if name == "use_pretrained_backbone" else _architecture(each) for name, each in kept.items()
        }
    if isinstance(value, float) and not isfinite(value):
        return {_NOT_FINITE: str(value)}  # such as "no limit"; JSON has no such number
    return [_architecture(each) for each in value] if isinstance(value, list | tuple) else value


def _with_numbers(value: Any) -> Any:
    """Restores the non-finite numbers that `_architecture` encoded."""
    if isinstance(value, dict):
        if set(value) == {_NOT_FINITE}:
            return float(value[_NOT_FINITE])
        return {name: _with_numbers(each) for name, each in value.items()}
    return [_with_numbers(each) for each in value] if isinstance(value, list) else value


def _tokens(config: Any) -> Tensor | None:
    words = getattr(config, "vocab_size", None)
    if not isinstance(words, int) or words < 8:
        return None
    return (torch.arange(16) * 7 % (words - 4) + 3).view(2, 8)  # the first few are often special
