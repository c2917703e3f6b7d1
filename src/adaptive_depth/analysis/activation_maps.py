"""Where sub-networks look: class-activation maps (paper, Figure 8), by pytorch-grad-cam."""

from collections.abc import Callable, Iterable, Sequence
from math import gcd, isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..batches import device_of, logits_in
from ..core.network import AdaptiveNetwork, check_runs
from ..errors import DataError, MeasurementError
from ..modes import evaluating, without_fast_paths
from ..packages import hint
from ..skip import Skip, parse_skip
from .observers import BlockObserver, FeatureLeaf, frozen, observed

if TYPE_CHECKING:
    import numpy as np


_TOKENS, _MAPS = 3, 4  # dimensions of features
_SIDE = 4  # positions: a map with fewer in height or width locates nothing


def class_activation_maps(
    network: AdaptiveNetwork,
    images: Tensor,
    *,
    skips: Iterable[Skip] | None = None,
    targets: Sequence[int] | Tensor | None = None,
) -> dict[str, "np.ndarray[Any, Any]"]:
    """Grad-CAM of sub-networks: which parts of an image support a class (paper, Figure 8).

    Taken after the last block that runs or, for small images, after that of the last stage whose map still has 4
    positions in height and width. In a transformer only the class token counts there, so tokens `[batch, tokens,
    channels]` are taken one block earlier; those in front of the map's tokens are left out.

    The network is left as it was. Needs pytorch-grad-cam: `pip install "adaptive-depth[analysis]"`.

    Arguments:
        network: an image classifier that returns logits `[batch, classes]`.
        images: `[images, channels, height, width]`, prepared for the network.
        skips: the sub-networks; super-net and base-net by default.
        targets: a class for each image; by default the super-net's predictions.

    Returns:
        For each skip, `[images, height, width]` from 0 (no support for the class) to 1 (the strongest).

    Raises:
        DataError: images or targets of another kind, or outputs that are not finite.
        MeasurementError: pytorch-grad-cam is missing, or features that do not form a map.
        SkipError: a skip that does not fit the network.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10, channels=(8, 8, 8, 8)))
        >>> maps = class_activation_maps(net, torch.randn(2, 3, 64, 48))
        >>> [(skip, found.shape) for skip, found in maps.items()]
        [('FFFF', (2, 64, 48)), ('TTTT', (2, 64, 48))]
    """
    check_runs(network, "class_activation_maps", MeasurementError)
    ends = (network.skips[0], network.skips[-1])
    chosen = [parse_skip(skip, len(network.stages)) for skip in (ends if skips is None else skips)]
    _check_images(images)
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise MeasurementError(f"class-activation maps need {hint(error, 'analysis')}") from error
    # Gradients are needed, even if the caller is in inference mode.
    with evaluating(network), frozen(network), torch.inference_mode(False), torch.enable_grad(), without_fast_paths():
        images = images.to(device_of(network))
        if not network.proven:
            network.prove(images)
        last, tokens, logits = _look(network, images)
        classes = _classes(targets, logits)
        found = {}
        for skip in chosen:
            features, place = _Features(), _place(network, skip, last, tokens)
            view = _Logits(observed(network.view(skip).module, {place: FeatureLeaf(features)}), skip)
            camera = GradCAM(view, [features], _as_maps(network.stages[last].channel_dim, images))
            wanted: Any = [ClassifierOutputTarget(each) for each in classes]
            found[skip] = camera(images, wanted)
        return found


class _Features(nn.Module):
    """Passes on a copy, for Grad-CAM to hook."""

    def forward(self, h: Tensor) -> Tensor:
        return h.clone()


class _Logits(nn.Module):
    """A sub-network that returns a tensor."""

    def __init__(self, subnet: nn.Module, skip: str) -> None:
        super().__init__()
        self.subnet, self.skip = subnet, skip

    def forward(self, images: Tensor) -> Tensor:
        output = logits_in(self.subnet(images))
        if not isinstance(output, Tensor) or output.ndim != 2:
            received = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise DataError(f"the network returned {received}: expected logits [batch, classes]")
        if not torch.isfinite(output).all():
            raise DataError(
                f"sub-network {self.skip} returned non-finite numbers: look for non-finite images, or for weights "
                "that diverged in training"
            )
        return output


def _look(network: AdaptiveNetwork, images: Tensor) -> tuple[int, bool, Tensor]:
    """The index of the stage whose output to take, whether its features are tokens, and the super-net's logits.

    It is the last stage whose map is large enough to locate anything, or else the one with the largest map.
    """
    skip, blocks = network.skips[0], [BlockObserver(stage.mandatory[-1], keep=True) for stage in network.stages]
    with torch.no_grad():
        view = observed(network.view(skip).module, {block.path: block for block in blocks})
        logits = _Logits(view, skip)(images)
    sides = []
    for stage, block in zip(network.stages, blocks, strict=True):
        block.check(len(images))
        sides.append(min(_as_maps(stage.channel_dim, images)(block.kept.after).shape[2:]))
    enough = min(_SIDE, max(sides))
    last = max(index for index, side in enumerate(sides) if side >= enough)
    return last, blocks[last].kept.after.ndim == _TOKENS, logits


def _place(network: AdaptiveNetwork, skip: str, last: int, tokens: bool) -> str:
    """The path of the block whose output to take: the last that runs up to a stage or, for tokens, the one before."""
    running = [
        path
        for stage, flag in zip(network.stages[: last + 1], skip, strict=False)
        for path in (stage.mandatory if flag == "T" else stage.blocks)
    ]
    # If only one block runs, its own output: there is no earlier one.
    return running[-2:][0] if tokens else running[-1]


def _as_maps(channel_dim: int, images: Tensor) -> Callable[[Tensor], Tensor]:
    """Turns features into `[images, channels, rows, columns]`."""

    def turned(h: Tensor) -> Tensor:
        if h.ndim not in (_TOKENS, _MAPS):
            raise MeasurementError(
                f"a stage returns {list(h.shape)}: class-activation maps need features [batch, channels, height, "
                "width] or [batch, tokens, channels]"
            )
        h = h.movedim(channel_dim, 1)
        if h.ndim == _TOKENS:
            rows, columns = _grid(h.shape[2], images.shape[2], images.shape[3])
            h = h[:, :, h.shape[2] - rows * columns :].unflatten(2, (rows, columns))
        return h.clone()  # the next module may change it in place

    return turned


def _grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """The largest map of an image's proportions that this many tokens fill; class tokens and the like are left over.

    Example:
        >>> _grid(197, 224, 224), _grid(170, 224, 192)
        ((14, 14), (14, 12))
    """
    unit = gcd(height, width)
    down, across = height // unit, width // unit
    scale = isqrt(tokens // (down * across))
    if not scale:
        raise MeasurementError(
            f"{tokens} tokens do not fill a map of a {height} × {width} pixel image: expected images of the size that "
            "the network was made for"
        )
    return scale * down, scale * across


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images) or not images.is_floating_point():
        received = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise DataError(
            f"class_activation_maps received {received}: expected images, floating-point numbers [images, channels, "
            "height, width], preprocessed for the network"
        )


def _classes(targets: Sequence[int] | Tensor | None, logits: Tensor) -> list[int]:
    """A class for each image."""
    if targets is None:
        return logits.argmax(1).tolist()
    classes = [int(target) for target in targets]
    if len(classes) != len(logits) or not all(0 <= each < logits.shape[1] for each in classes):
        raise DataError(
            f"targets={classes} for {len(logits)} images and {logits.shape[1]} classes: expected one class per image, "
            f"from 0 to {logits.shape[1] - 1}"
        )
    return classes
