"""Charts of what was measured, as PNG files; nothing is shown and no global state is touched."""

from .tradeoffs import plot_tradeoffs
from .training import plot_training

__all__ = ["plot_tradeoffs", "plot_training"]
