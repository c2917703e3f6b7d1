"""How good a sub-network is: a number with a name, a unit and a direction. A plain value, which needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Quality:
    """What sub-networks are judged by: the name of a number, its unit, and which way is better.

    Attributes:
        name: such as `"top-1"`, `"mIoU"` or `"RMSE"`.
        unit: `"%"`, `"km/h"`, ...; empty where the number has none.
        higher_is_better: of two numbers, is the higher one the better?

    Example:
        >>> str(Quality("RMSE", "km/h", higher_is_better=False))
        'RMSE (km/h, lower is better)'
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True

    def __str__(self) -> str:
        said = [self.unit] if self.unit else []
        said += [] if self.higher_is_better else ["lower is better"]
        return f"{self.name} ({', '.join(said)})" if said else self.name

    def text(self, value: float, digits: int = 2) -> str:
        """A value with its unit.

        Example:
            >>> Quality("top-1", "%").text(76.5), Quality("perplexity").text(4.0)
            ('76.50 %', '4.00')
        """
        return f"{value:.{digits}f} {self.unit}".rstrip()

    def gain(self, value: float, over: float) -> float:
        """By how much a value is better than another; negative where it is worse."""
        return value - over if self.higher_is_better else over - value

    def best(self, values: Mapping[str, float]) -> str:
        """The name of the best of some values."""
        return (max if self.higher_is_better else min)(values, key=lambda name: values[name])


TOP_1 = Quality("top-1", "%")
