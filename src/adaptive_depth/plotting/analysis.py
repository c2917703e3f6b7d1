"""What an analysis found: how large residuals are (paper, Figure 3), and where sub-networks look (Figure 8)."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.values import Analysis, BlockAnalysis
from ..errors import MeasurementError
from ..text import printable
from .figures import ALONE, FRONT, OTHER, check_path, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_GAP = 0.8  # between stages, in widths of a block


def plot_transformations(analysis: Analysis, path: str | os.PathLike[str] | None = None) -> "Figure":
    """Draw ‖F(h)‖₂ / ‖h‖₂ of every block in the order in which they run (paper, Figure 3).

    Mandatory blocks are plain bars, skippable ones hatched; if the analysis has another network to compare with,
    its blocks are diamonds. A block that changes the shape has a cross on the axis instead of a bar.

    Arguments:
        analysis: what to draw.
        path: a PNG file to write; an existing one is replaced atomically.

    Returns:
        The figure, for changes and other formats (`figure.savefig`).

    Raises:
        MeasurementError: a path that does not end in .png.

    Example:
        >>> from adaptive_depth.analysis.values import StageAnalysis
        >>> stage = StageAnalysis(1, "one", -0.3, -0.3, 0.2, 0.02, 0.01)
        >>> blocks = (BlockAnalysis("blocks.0", 1, False, 0.9), BlockAnalysis("blocks.1", 1, True, 0.1))
        >>> plot_transformations(Analysis(blocks, (stage,), (), {"F": 0.5, "T": 0.52}, 100)).axes[0].get_ylabel()
        '‖F(h)‖ / ‖h‖'
    """
    check_path(path)
    places = dict(zip(analysis.blocks, _places(analysis.blocks), strict=True))
    figure = new_figure(max(7.2, 0.3 * max(places.values())), 4.4)
    axes = figure.add_subplot()
    _bars(axes, {block: x for block, x in places.items() if not block.skippable}, "mandatory", OTHER, "")
    _bars(axes, {block: x for block, x in places.items() if block.skippable}, "skippable", FRONT, "////")
    alone = [(x, block.alone) for block, x in places.items() if block.alone is not None]
    if alone:
        label = "trained without the method"
        # Unclipped, because a marker at the edge of the axes would be cut in half.
        axes.scatter(*zip(*alone, strict=True), marker="D", s=26, color=ALONE, label=label, zorder=3, clip_on=False)
    shapeless = [x for block, x in places.items() if block.ratio is None]
    if shapeless:
        label = "changes the shape"
        axes.scatter(shapeless, [0] * len(shapeless), marker="x", s=22, color="#444444", label=label, clip_on=False)
    _name_stages(axes, analysis, places)
    axes.set_ylabel("‖F(h)‖ / ‖h‖")
    axes.set_title(f"What each block adds to its input, on {analysis.images} images", fontsize=11)
    tidy(axes)
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    save(figure, path)
    return figure


def _places(blocks: Sequence[BlockAnalysis]) -> Iterator[float]:
    """Positions of the blocks: side by side, with a gap between stages."""
    for number, block in enumerate(blocks):
        yield number + _GAP * (block.stage - 1)


def _bars(axes: "Axes", places: Mapping[BlockAnalysis, float], label: str, color: str, hatch: str) -> None:
    shown = [(x, block.ratio) for block, x in places.items() if block.ratio is not None]
    if shown:
        columns = zip(*shown, strict=True)
        axes.bar(*columns, width=0.72, color=color, label=label, hatch=hatch, edgecolor="white", linewidth=0, zorder=2)


def _name_stages(axes: "Axes", analysis: Analysis, places: Mapping[BlockAnalysis, float]) -> None:
    """Label blocks with their number in the stage, and stages with their name below."""
    ticks: list[float] = []
    for stage in analysis.stages:
        own = [x for block, x in places.items() if block.stage == stage.stage]
        # About four characters fit below a block.
        name = stage.name if len(stage.name) <= 4 * len(own) + 2 else f"stage {stage.stage}"
        axes.annotate(
            printable(name),
            (sum(own) / len(own), 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -22),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            parse_math=False,  # a name is not a formula
        )
        ticks += own
    numbers = [str(1 + index) for stage in analysis.stages for index in range(_count(analysis, stage.stage))]
    axes.set_xticks(ticks, numbers, fontsize=8)
    axes.set_xlim(min(ticks) - 0.8, max(ticks) + 0.8)


def _count(analysis: Analysis, stage: int) -> int:
    return sum(block.stage == stage for block in analysis.blocks)


def plot_maps(
    images: "Tensor", maps: "Mapping[str, np.ndarray[Any, Any]]", path: str | os.PathLike[str] | None = None
) -> "Figure":
    """Draw where sub-networks look in images (paper, Figure 8): one row per image, one column per sub-network.

    Arguments:
        images: `[images, channels, height, width]` of 1 or 3 channels (otherwise their mean is shown), as prepared for
            the network; each is rescaled for display.
        maps: what `class_activation_maps` found for them: by skip, `[images, height, width]` from 0 to 1.
        path: a PNG file to write.

    Returns:
        The figure.

    Raises:
        MeasurementError: no maps, or maps of other images; a path that does not end in .png.

    Example:
        >>> import torch
        >>> figure = plot_maps(torch.rand(2, 3, 8, 8), {"FF": np.zeros((2, 8, 8)), "TT": np.ones((2, 8, 8))})
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['image', 'super-net FF', 'base-net TT']
    """
    check_path(path)
    shown = _shown(np.asarray(images.detach().cpu().float()))
    for skip, found in maps.items():
        if np.shape(found) != shown.shape[:3]:
            raise MeasurementError(
                f"maps of {skip} are {list(np.shape(found))} for images {list(images.shape)}: expected one per image, "
                "of the same height and width"
            )
    if not maps:
        raise MeasurementError("maps is empty: expected what class_activation_maps returns")
    figure = new_figure(2.1 * (1 + len(maps)), 2.1 * len(shown) + 0.4)
    grid = figure.subplots(len(shown), 1 + len(maps), squeeze=False)
    for row, image in zip(grid, shown, strict=True):
        row[0].imshow(image)
    for column, found in enumerate(maps.values(), 1):
        for row, image, heat in zip(grid, shown, found, strict=True):
            row[column].imshow(image.mean(2), cmap="gray", vmin=0, vmax=1)
            # Nearly transparent where nothing supports the class, so that the image stays visible.
            row[column].imshow(heat, cmap="turbo", vmin=0, vmax=1, alpha=0.2 + 0.5 * np.asarray(heat))
    for axes, title in zip(grid[0], ["image", *map(_title, maps)], strict=True):
        axes.set_title(title, fontsize=10)
    for axes in grid.flat:
        axes.set_axis_off()
    save(figure, path)
    return figure


def _shown(images: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Images as `[images, height, width, 3]`, each scaled to 0 to 1."""
    if images.shape[1] != 3:
        images = np.repeat(images.mean(1, keepdims=True), 3, axis=1)
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    # Avoids dividing a constant image by 0.
    return ((images - low) / np.maximum(high - low, np.finfo(np.float32).tiny)).transpose(0, 2, 3, 1)


def _title(skip: str) -> str:
    return {"F": f"super-net {skip}", "T": f"base-net {skip}"}.get("".join(dict.fromkeys(skip)), skip)
