"""What all charts share: a figure without global state, its look, and an atomically written file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MeasurementError
from ..files import drafts, move

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRONT, OTHER, ALONE = "#1f5fa8", "#9aa5b1", "#b3541e"


def check_path(path: str | os.PathLike[str] | None) -> None:
    """Raise a MeasurementError if a picture cannot be written under this name."""
    if path is not None and Path(path).suffix.lower() != ".png":
        raise MeasurementError(f"path {os.fspath(path)!r}: expected a name that ends in .png")


def new_figure(width: float = 7.2, height: float = 4.8) -> "Figure":
    """An empty figure, sized in inches, that pyplot does not track."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    # Drawing needs a canvas, which pyplot would otherwise attach.
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: "Axes") -> None:
    """A light grid, no frame at the top and right."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", path: str | os.PathLike[str] | None) -> None:
    """Write a PNG file, if a path is given; an existing one is replaced atomically, so no one reads half a file."""
    if path is None:
        return
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with drafts(place.parent) as folder:
        figure.savefig(folder / place.name, format="png")
        move(folder / place.name, place)
