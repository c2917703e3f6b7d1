"""Quality and losses over training."""

import os
from typing import TYPE_CHECKING

from ..errors import MeasurementError
from ..quality import TOP_1, Quality
from ..text import printable
from ..training.history import Epoch, History
from .figures import ALONE, FRONT, OTHER, check_path, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_training(
    history: History,
    path: str | os.PathLike[str] | None = None,
    *,
    quality: Quality = TOP_1,
    size: tuple[float, float] = (7.2, 6.0),
) -> "Figure":
    """Draw the quality of sub-networks and the losses over the epochs of a training (paper, Figure 5).

    The quality is that on validation images if it was measured during training (the recipe's `validate` and
    `validate_every`), one line per sub-network; otherwise the accuracy of super-net and base-net on training images.
    If neither is known, only losses are drawn.

    Arguments:
        history: as `train` returns it, or `History.from_csv`.
        path: a PNG file to write; an existing one is replaced atomically.
        quality: what was measured on validation images, `task.quality`; top-1 in percent by default.
        size: width and height in inches; text keeps its size.

    Returns:
        The figure, for changes and other formats (`figure.savefig`). Lines have ids, such as `validation-TTFF`.

    Raises:
        MeasurementError: a history without epochs, or a path that does not end in .png.

    Example:
        >>> epoch = Epoch(1, 0.1, 1.5, 60.0, 0.2, 58.0, 900.0, validation={"F": 61.0, "T": 59.0})
        >>> [axes.get_ylabel() for axes in plot_training(History((epoch,))).axes]
        ['validation top-1 (%)', 'loss']
    """
    check_path(path)
    if not history.epochs:
        raise MeasurementError("a history without epochs: expected what train returns after at least one epoch")
    figure = new_figure(*size)
    validated = [epoch for epoch in history.epochs if epoch.validation]
    judged = bool(validated) or any(epoch.accuracy is not None for epoch in history.epochs)
    heights = (3, 2) if judged else (1,)
    *above, below = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes in above:
        _draw_quality(axes, history, validated, quality)
    _draw(below, history, {"loss": "super-net", "base_loss": "base-net"})
    below.set_ylabel("loss")
    below.set_xlabel("epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    for axes in figure.axes:
        tidy(axes)
        axes.legend(fontsize=8, frameon=False)
    save(figure, path)
    return figure


def _draw_quality(axes: "Axes", history: History, validated: list[Epoch], quality: Quality) -> None:
    """What was measured on validation images; otherwise the accuracy on training images."""
    if validated:
        _draw_validation(axes, validated)
    else:
        _draw(axes, history, {"accuracy": "super-net", "base_accuracy": "base-net"})
    label = f"validation {quality}" if validated else "top-1 on training images (%)"
    axes.set_ylabel(printable(label), parse_math=False)  # a name is not a formula


def _draw_validation(axes: "Axes", epochs: list[Epoch]) -> None:
    """Super-net and base-net in front, intermediate sub-networks behind them in grey."""
    skips = list(dict.fromkeys(skip for epoch in epochs for skip in epoch.validation or ()))
    between = [skip for skip in skips if len(set(skip)) > 1]
    for skip in (*between, *(skip for skip in skips if skip not in between)):
        measured = [(epoch.epoch, epoch.validation[skip]) for epoch in epochs if skip in (epoch.validation or ())]  # type: ignore[index]
        end = skip not in between
        color, style = (ALONE, "--") if set(skip) == {"T"} else (FRONT, "-")
        name = f"{skip} ({'super-net' if set(skip) == {'F'} else 'base-net'})" if end else "_"
        name = "intermediate" if not end and skip == between[0] else name
        axes.plot(
            *zip(*measured, strict=True),
            color=color if end else OTHER,
            linestyle=style if end else "-",
            linewidth=1.8 if end else 0.8,
            marker="o",
            markersize=3,
            label=name,
            gid=f"validation-{skip}",
        )


def _draw(axes: "Axes", history: History, what: dict[str, str]) -> None:
    for (name, label), color, style in zip(what.items(), (FRONT, ALONE), ("-", "--"), strict=True):
        points = [(epoch.epoch, getattr(epoch, name)) for epoch in history.epochs if getattr(epoch, name) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=color,
                linestyle=style,
                marker="o",
                markersize=3,
                label=label,
                gid=name,
            )
