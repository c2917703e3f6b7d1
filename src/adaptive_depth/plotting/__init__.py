"""Charts of what was measured, as PNG files; nothing is shown and no global state is touched."""

from .tradeoffs import plot_tradeoffs

__all__ = ["plot_tradeoffs"]
