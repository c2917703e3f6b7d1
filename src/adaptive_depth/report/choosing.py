"""What the page knows of the choice: for every limit the sub-network that `best` returns, worked out beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import floor, log10
from typing import Any

from ..choose.quantities import ACCURACY, Quantity, quantities, rounded
from ..choose.tradeoffs import Row, TradeOffs

_POSITIONS = 150  # of the slider, at least


@dataclass(frozen=True)
class Limit:
    """A limit that the reader may set, in the unit in which it is shown.

    Attributes:
        quantity: what is limited.
        at_least: a lower limit, on accuracy; an upper one on a cost else.
        steps: (limit, skip) by growing limit. An upper limit gives the skip of the last step that does not exceed it,
            a lower limit that of the first step that is not below it; there may be none.
        none: what is said where no sub-network meets the limit.
        above: limits have to be above this, else `best` refuses them.
    """

    quantity: Quantity
    at_least: bool
    steps: tuple[tuple[float, str], ...]
    none: str
    above: float = 0.0

    def choice(self, limit: float) -> str | None:
        """What the page chooses; None where nothing meets the limit."""
        if not limit > self.above:
            return None
        if self.at_least:
            return next((skip for step, skip in self.steps if step >= limit), None)
        return next((skip for step, skip in reversed(self.steps) if step <= limit), None)

    def _written(self, limit: float, skip: str) -> str:
        """The limit in as few digits as give the same choice, from those that are shown elsewhere."""
        rounding = ROUND_FLOOR if self.at_least else ROUND_CEILING
        texts = (rounded(limit, self.quantity.decimals + more, rounding) for more in range(12))
        return next((text for text in texts if self.choice(float(text)) == skip), repr(limit))

    def to_json(self, values: Sequence[float]) -> dict[str, Any]:
        """For the script. `values` are what the sub-networks cost, in the unit shown: the slider spans them."""
        low, high, step = _span(min(values), max(values), self.above)
        middle = low + step * int((high - low) / step / 2)
        return {
            "name": self.quantity.name,
            "title": self.quantity.title,
            "unit": self.quantity.unit,
            "atLeast": self.at_least,
            "steps": [(*step, self._written(*step)) for step in self.steps],
            "none": self.none,
            "above": self.above,
            "min": f"{low:f}",
            "max": f"{high:f}",
            "step": f"{step:f}",
            "start": f"{middle:f}",
            "decimals": max(0, -int(step.as_tuple().exponent)),
        }


def limits(table: TradeOffs) -> dict[str, Limit]:
    """By name: the costs that a limit makes sense for at run time, and the accuracy.

    The parameters are left out: all sub-networks share them, so choosing another saves none.

    Example:
        >>> table = TradeOffs((Row("F", 76.0, 400_000, 9), Row("T", 75.0, 200_000, 5)))
        >>> limit = limits(table)["macs"]
        >>> limit.steps, limit.choice(0.3), limit.choice(0.1)
        (((0.2, 'T'), (0.4, 'F')), 'T', None)
    """
    found = {}
    for name, quantity in quantities(table).items():
        if name == "parameters":
            continue
        steps = tuple((limit / quantity.divisor, skip) for limit, skip in table.choices(name))
        least = min(table.rows, key=lambda row, name=name: getattr(row, name))
        needs = quantity.enough(getattr(least, name))
        found[name] = Limit(quantity, False, steps, f"The least that any needs is {needs}, by {least.skip}.")
    best = max(table.rows, key=lambda row: row.accuracy)
    reached = f"The most accurate, {best.skip}, reaches {rounded(best.accuracy, ACCURACY.decimals, ROUND_FLOOR)} %."
    found["accuracy"] = Limit(ACCURACY, True, _accuracy_steps(table), reached, above=1.0)
    return found


def _accuracy_steps(table: TradeOffs) -> tuple[tuple[float, str], ...]:
    """As for a cost, from above: `best(accuracy=limit)` is the skip of the first step whose limit is not below."""
    steps: list[tuple[float, str]] = []
    for value in sorted({row.accuracy for row in table.rows if row.accuracy > 1}, reverse=True):
        skip = table.best(accuracy=value)
        if not steps or steps[-1][1] != skip:
            steps.append((value, skip))
    return tuple(reversed(steps))


def reference(table: TradeOffs) -> Row:
    """What sub-networks are compared with: the super-net; where it was not measured, the one of most multiply-adds."""
    whole = (row for row in table.rows if "T" not in row.skip)
    return next(whole, None) or max(table.rows, key=lambda row: row.macs)


def role(skip: str) -> str:
    """`"super-net"` or `"base-net"`; of others nothing."""
    return {frozenset("F"): "super-net", frozenset("T"): "base-net"}.get(frozenset(skip), "")


def facts(table: TradeOffs) -> dict[str, dict[str, Any]]:
    """By skip: its role, and name, value and comparison with the super-net of all that was measured, in words."""
    top = reference(table)
    against = f"the {role(top.skip)}" if role(top.skip) else top.skip
    found = {}
    for row in table.rows:
        lines = [("Accuracy", ACCURACY.text(row.accuracy), _lost(row, top, against))]
        for name, quantity in quantities(table).items():
            value = getattr(row, name)
            lines.append((quantity.title, quantity.text(value), _saved(value, getattr(top, name), row is top)))
        found[row.skip] = {"role": role(row.skip), "lines": lines}
    return found


def _lost(row: Row, top: Row, against: str) -> str:
    if row is top:
        return ""
    points = row.accuracy - top.accuracy
    if abs(points) < 0.005:
        return f"as accurate as {against}"
    return f"{abs(points):.2f} points {'below' if points < 0 else 'above'} {against}"


def _saved(value: float, most: float, same: bool) -> str:
    if same or not most:
        return ""
    part = 100 * (most - value) / most
    if abs(part) < 0.05:
        return "the same"
    return f"{abs(part):.1f} % {'less' if part > 0 else 'more'}"


def verdicts(table: TradeOffs) -> dict[str, dict[str, str]]:
    """By limit and skip: on the Pareto front, or dominated by which."""
    found: dict[str, dict[str, str]] = {}
    for name in quantities(table):
        front = {row.skip for row in table.front(name)}
        dominated = table.dominated(name)
        found[name] = {
            row.skip: "on the front" if row.skip in front else f"dominated by {dominated[row.skip]}"
            for row in table.rows
        }
    return found


def _span(smallest: float, largest: float, above: float) -> tuple[Decimal, Decimal, Decimal]:
    """First and last value of a slider and its step: round numbers, a little below and above what they span."""
    across = largest - smallest or abs(largest) / 10 or 1.0
    raw = across / _POSITIONS
    power = Decimal(1).scaleb(floor(log10(raw)))
    step = next(power * factor for factor in (5, 2, 1) if power * factor <= Decimal(raw))
    margin = Decimal(across) * Decimal("0.06")
    low = ((Decimal(smallest) - margin) / step).to_integral_value(ROUND_FLOOR) * step
    high = ((Decimal(largest) + margin) / step).to_integral_value(ROUND_CEILING) * step
    first = (Decimal(above) / step).to_integral_value(ROUND_FLOOR) * step + step
    return max(low, first), high, step
