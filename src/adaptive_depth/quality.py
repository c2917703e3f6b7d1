"""How good a sub-network is: a number with a name, a unit and a direction. A plain value, without torch."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import floor, log10

from .errors import TrainingError
from .schema import Plain, Text
from .text import digits_apart


@dataclass(frozen=True)
class Quality(Plain):
    """What sub-networks are judged by: the name of a number, its unit, and which way is better.

    Attributes:
        name: such as `"top-1"`, `"mIoU"` or `"RMSE"`.
        unit: `"%"`, `"km/h"`, ...; empty if the number has none.
        higher_is_better: whether the higher of two numbers is better.

    Example:
        >>> str(Quality("RMSE", "km/h", higher_is_better=False))
        'RMSE (km/h, lower is better)'
    """

    name: Text
    unit: str = ""
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and isinstance(self.unit, str) and isinstance(self.higher_is_better, bool)):
            raise TrainingError(
                f"Quality({self.name!r}, {self.unit!r}, {self.higher_is_better!r}): expected a name, a unit and "
                'True or False, such as Quality("RMSE", "m", higher_is_better=False)'
            )

    def __str__(self) -> str:
        said = [self.unit] if self.unit else []
        said += [] if self.higher_is_better else ["lower is better"]
        return f"{self.name} ({', '.join(said)})" if said else self.name

    @property
    def noun(self) -> str:
        """Its name within a sentence.

        Example:
            >>> TOP_1.noun, Quality("RMSE", "m", higher_is_better=False).noun
            ('accuracy', 'RMSE')
        """
        return "accuracy" if self == TOP_1 else self.name

    @property
    def title(self) -> str:
        """Its name in a heading."""
        return "Accuracy" if self == TOP_1 else self.name

    @property
    def heading(self) -> str:
        """The heading above several values, with the direction if lower is better; the unit is beside them.

        Example:
            >>> TOP_1.heading, Quality("RMSE", "m", higher_is_better=False).heading
            ('Top-1 accuracy', 'RMSE (lower is better)')
        """
        return "Top-1 accuracy" if self == TOP_1 else str(replace(self, unit=""))

    def digits(self, values: Iterable[float]) -> int:
        """Decimals that distinguish values: 2 for percent, else three significant digits of the largest, at least 2;
        more if two values would look alike.

        Example:
            >>> Quality("RMSE", "m").digits([0.0312, 0.0298]), Quality("perplexity").digits([23.4]), TOP_1.digits([0.5])
            (4, 2, 2)
            >>> Quality("perplexity").digits([23.4013, 23.4049])
            3
        """
        known = [*values]
        largest = max((abs(value) for value in known), default=0.0)
        if self.unit == "%" or not largest:
            return digits_apart(known, 2)
        return digits_apart(known, min(6, max(2, 2 - floor(log10(largest)))))

    @classmethod
    def from_text(cls, text: str, *, higher_is_better: bool | None = None) -> "Quality":
        """Parse what `str` returns: `NAME`, `NAME (UNIT)`, `NAME (lower is better)` or `NAME (UNIT, lower is better)`.

        Arguments:
            text: a name, and in brackets a unit and a direction.
            higher_is_better: the direction if the text has none.

        Raises:
            TrainingError: no name, or no direction.

        Example:
            >>> Quality.from_text("RMSE (km/h, lower is better)")
            Quality(name='RMSE', unit='km/h', higher_is_better=False)
        """
        found = re.fullmatch(r"\s*([^()]*?)\s*(?:\(([^()]*)\)\s*)?", text)
        said = [part.strip() for part in (found[2] or "").split(",")] if found else []
        directions = [_DIRECTIONS[part] for part in said if part in _DIRECTIONS]
        units = [part for part in said if part and part not in _DIRECTIONS]
        direction = directions[0] if directions else higher_is_better
        if not found or not found[1] or len(units) > 1 or len(directions) > 1:
            raise TrainingError(f"{text!r}: expected NAME, NAME (UNIT) or NAME (UNIT, lower is better)")
        if direction is None:
            raise TrainingError(
                f"{text!r} does not say whether higher or lower is better: expected NAME (UNIT, higher is better) or "
                "NAME (UNIT, lower is better)"
            )
        return cls(found[1], "".join(units), direction)

    def text(self, value: float, digits: int = 2) -> str:
        """A value with its unit.

        Example:
            >>> Quality("top-1", "%").text(76.5), Quality("perplexity").text(4.0)
            ('76.50 %', '4.00')
        """
        return f"{value:.{digits}f} {self.unit}".rstrip()

    def apart(self, value: float, other: float, digits: int = 2) -> str:
        """The distance between two values, whichever is better: percentages differ by points.

        Example:
            >>> TOP_1.apart(76.0, 75.5), Quality("RMSE", "m").apart(0.25, 0.5)
            ('0.50 points', '0.25 m')
        """
        return f"{abs(value - other):.{digits}f} {'points' if self.unit == '%' else self.unit}".rstrip()

    def gain(self, value: float, over: float) -> float:
        """By how much a value is better than another; negative if it is worse."""
        return value - over if self.higher_is_better else over - value

    def best(self, values: Mapping[str, float]) -> str:
        """The name of the best of some values."""
        return (max if self.higher_is_better else min)(values, key=lambda name: values[name])


_DIRECTIONS = {"higher is better": True, "lower is better": False}


TOP_1 = Quality("top-1", "%")


class Measured(dict[str, float]):
    """The quality of sub-networks by skip, and its name and unit: what `evaluate` returns."""

    def __init__(
        self, values: Mapping[str, float] | Iterable[tuple[str, float]] = (), quality: Quality = TOP_1
    ) -> None:
        super().__init__(values)
        self.quality = quality
