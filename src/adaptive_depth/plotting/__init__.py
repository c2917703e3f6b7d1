"""Charts of what was measured, as PNG files; nothing is shown and no global state is touched."""

from .analysis import plot_maps, plot_transformations
from .tradeoffs import plot_tradeoffs
from .training import plot_training

__all__ = ["plot_maps", "plot_tradeoffs", "plot_training", "plot_transformations"]
