"""Registries of everything that exists in several kinds: families, formats, runtimes, data sets."""

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from .errors import AdaptiveDepthError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Things by name, in the order of registration.

    Arguments:
        what: the name of one thing in errors, such as `"backend"`.
        error: what to raise.

    Example:
        >>> shapes = Registry[Callable[[float], float]]("shape", AdaptiveDepthError)
        >>> @shapes.register("square")
        ... def square(side):
        ...     return side**2
        >>> shapes["square"](3), shapes.names
        (9, 'square')
        >>> shapes.take("circle")
        Traceback (most recent call last):
        adaptive_depth.errors.AdaptiveDepthError: shape='circle': expected one of square
    """

    def __init__(self, what: str, error: type[AdaptiveDepthError]) -> None:
        self._what, self._error = what, error
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers a function or a class under a name; call it for any other value.

        Raises:
            AdaptiveDepthError: the registry's `error`, for a name that is taken.
        """

        def keep(thing: T) -> T:
            if name in self._things:
                raise self._error(f"{self._what} {name!r} is registered twice; known: {self.names}")
            self._things[name] = thing
            return thing

        return keep

    def take(self, name: object, called: str = "") -> T:
        """What is registered under a name.

        Arguments:
            name: as passed by the user.
            called: the name of the argument, for the error; by default the registry's `what`.

        Raises:
            AdaptiveDepthError: the registry's `error`, for an unknown name; it lists the known ones.
        """
        try:
            return self._things[name]  # type: ignore[index]
        except (KeyError, TypeError):
            raise self._error(f"{called or self._what}={name!r}: expected one of {self.names}") from None

    @property
    def names(self) -> str:
        """All names, for errors."""
        return ", ".join(self._things)

    def __getitem__(self, name: str) -> T:
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
