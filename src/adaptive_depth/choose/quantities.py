"""How numbers are formatted: the name, unit and digits of every cost of a table, and of its quality."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from math import floor, log10
from typing import Any

from ..quality import TOP_1
from ..text import digits_apart
from .costs import COSTS, macs_unit
from .tradeoffs import TradeOffs

_DIGITS = 4  # of the largest value; no time measurement is more precise


@dataclass(frozen=True)
class Quantity:
    """A cost, or the quality, of every sub-network.

    Attributes:
        name: of the limit that `TradeOffs.best` takes, such as `"latency_ms"`.
        title: for display, such as `"Latency"`.
        word: the same within a sentence, such as `"latency"`.
        unit: in which it is shown, such as `"ms"`; empty if there is none.
        divisor: converts a value to that unit.
        decimals: decimal places.
    """

    name: str
    title: str
    word: str
    unit: str
    divisor: float
    decimals: int

    def number(self, value: float) -> str:
        """Such as `"1.131"`, or `"−0.250"`."""
        return f"{value / self.divisor:,.{self.decimals}f}".replace("-", "−")

    def text(self, value: float) -> str:
        """Such as `"1.131 ms"`, with a no-break space."""
        return self._with_unit(self.number(value))

    def enough(self, value: float, rounding: str = ROUND_CEILING) -> str:
        """As `text`, rounded up (or as given), so that the value meets a limit of that much."""
        return self._with_unit(rounded(value / self.divisor, self.decimals, rounding).replace("-", "−"))

    # A no-break space, so that no line breaks between a number and its unit.
    def _with_unit(self, number: str) -> str:
        return f"{number}\N{NO-BREAK SPACE}{self.unit}" if self.unit else number


def quality_of(table: TradeOffs) -> Quantity:
    """The quality that a table's sub-networks are judged by.

    Example:
        >>> from adaptive_depth.quality import Quality
        >>> from adaptive_depth.choose.tradeoffs import Row
        >>> known = quality_of(TradeOffs((Row("F", 0.03, 9, 9),), quality=Quality("RMSE", "m", higher_is_better=False)))
        >>> known.title, known.number(0.03), known.unit
        ('RMSE', '0.0300', 'm')
    """
    quality = table.quality
    name = "accuracy" if quality == TOP_1 else "quality"
    return Quantity(name, quality.title, quality.noun, quality.unit, 1.0, table.digits)


def quantities(table: TradeOffs) -> dict[str, Quantity]:
    """Every cost in a table, by name, in the table's order.

    Example:
        >>> from adaptive_depth.choose.tradeoffs import Row
        >>> known = quantities(TradeOffs((Row("F", 76.0, 4_110_000_000, 25_557_032, 50.0),)))
        >>> known["latency_ms"].number(50.0), known["macs"].number(4.11e9), known["macs"].unit
        ('50.00', '4.110', 'GMACs')
    """
    return {name: _quantity(name, (getattr(row, name) for row in table.rows)) for name in table.measured}


def _quantity(name: str, values: Iterable[Any]) -> Quantity:
    known = [*values]
    largest = max(known)
    word = COSTS[name].word
    if name == "macs":
        divisor, unit = macs_unit(largest)
    elif name == "parameters":
        divisor, unit = (1e6, "million") if largest >= 1e6 else (1e3, "thousand")
    else:
        divisor, unit = 1.0, COSTS[name].unit
    shown = largest / divisor
    decimals = min(6, max(0, _DIGITS - 1 - floor(log10(shown)))) if shown > 0 else 0
    # Different values must not look equal, so there may be more decimals than significant digits.
    told = digits_apart((value / divisor for value in known), decimals)
    return Quantity(name, word.capitalize(), word, unit, divisor, told)


def rounded(value: float, decimals: int, rounding: str) -> str:
    """A number with this many decimal places.

    Example:
        >>> rounded(1.1101, 2, ROUND_CEILING)
        '1.12'
    """
    # Via `repr`: the binary value of 1.1 is slightly larger, so one decimal rounded up would be 1.2.
    return f"{Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), rounding=rounding):f}"
