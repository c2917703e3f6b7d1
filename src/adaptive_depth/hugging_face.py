"""What is known of any model of transformers; nothing here imports that library."""

import sys
from typing import Any

import torch
from torch import Tensor, nn


def is_of_transformers(model: nn.Module) -> bool:
    """Is it a model of transformers, or a subclass of one?"""
    base = sys.modules.get("transformers.modeling_utils")
    return base is not None and isinstance(model, base.PreTrainedModel)


def writes_text(model: nn.Module) -> bool:
    """Is it a model of transformers with `generate`, so one that continues a text from a cache?"""
    return is_of_transformers(model) and bool(model.can_generate())  # type: ignore[operator]


def predicts_the_next_token(model: nn.Module) -> bool:
    """Is it a causal language model: one that writes text and has a decoder alone?"""
    return writes_text(model) and not model.config.is_encoder_decoder  # type: ignore[union-attr]


def layer_lists(model: nn.Module) -> list[list[str]]:
    """The paths of the layers of each list that a model of transformers goes through, as its library marks them."""
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
    """A short input of a model of transformers, as keyword arguments; None where its config does not say.

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


def _tokens(config: Any) -> Tensor | None:
    words = getattr(config, "vocab_size", None)
    if not isinstance(words, int) or words < 8:
        return None
    return (torch.arange(16) * 7 % (words - 4) + 3).view(2, 8)  # the first few are often special
