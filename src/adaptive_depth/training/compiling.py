"""What a training compiles: each sub-network once, and again if the network's views were rebuilt."""

from collections.abc import Callable
from typing import Any

import torch

from ..core.network import AdaptiveNetwork


class Compiled:
    """Functions of a network's sub-networks, compiled on their first run after `ask` was called.

    A copy or an unpickled one compiles again: compiled code belongs to one process.
    """

    def __init__(self) -> None:
        self._options: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._views: Any = None
        self._made: dict[Any, Callable[..., Any]] = {}

    def ask(self, *args: Any, **kwargs: Any) -> None:
        """Compile from now on, with these arguments of `torch.compile`."""
        self._options = args, kwargs
        self._views, self._made = None, {}

    @property
    def asked(self) -> bool:
        return self._options is not None

    def of(self, network: AdaptiveNetwork, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` itself or, once `ask` was called, the one compiled under `key` for the network's present views."""
        if self._options is None:
            return function
        if self._views is not network._views:  # forget_views() makes a new dictionary, so identity reveals a rebuild
            self._views, self._made = network._views, {}
        if key not in self._made:
            args, kwargs = self._options
            self._made[key] = torch.compile(function, *args, **kwargs)
        return self._made[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"_options": self._options, "_views": None, "_made": {}}
