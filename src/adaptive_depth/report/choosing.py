"""The page's choices: for every limit the sub-network that `best` returns, computed in advance."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import floor, inf, isfinite, log10, nextafter
from typing import Any

from ..choose.quantities import Quantity, quality_of, quantities, rounded
from ..choose.tradeoffs import Row, TradeOffs
from ..quality import TOP_1

_POSITIONS = 150  # of the slider, at least


@dataclass(frozen=True)
class Limit:
    """A limit that the reader may set, in its display unit.

    Attributes:
        quantity: what is limited.
        at_least: a lower limit, on a quality where higher is better; otherwise an upper one.
        steps: (limit, skip), sorted by limit. An upper limit selects the last step that does not exceed it, a lower
            limit the first step that is not below it; there may be none.
        none: the text shown if no sub-network meets the limit.
        above: limits must be above this, or `best` rejects them; None accepts any number.
        on_quality: whether the quality is limited, not a cost.
    """

    quantity: Quantity
    at_least: bool
    steps: tuple[tuple[float, str], ...]
    none: str
    above: float | None = 0.0
    on_quality: bool = False

    def choice(self, limit: float) -> str | None:
        """What the page chooses; None if nothing meets the limit."""
        if not isfinite(limit) or (self.above is not None and limit <= self.above):
            return None
        if self.at_least:
            return next((skip for step, skip in self.steps if step >= limit), None)
        return next((skip for step, skip in reversed(self.steps) if step <= limit), None)

    def _written(self, limit: float, skip: str) -> str:
        """The limit in the fewest digits that give the same choice, but no fewer than are shown elsewhere."""
        rounding = ROUND_FLOOR if self.at_least else ROUND_CEILING
        texts = (rounded(limit, self.quantity.decimals + more, rounding) for more in range(12))
        return next((text for text in texts if self.choice(float(text)) == skip), repr(limit))

    def to_json(self, values: Sequence[float]) -> dict[str, Any]:
        """For the script. `values` are the sub-networks' costs in the display unit: the slider spans them."""
        low, high, step = _span(min(values), max(values), self.above)
        middle = low + step * int((high - low) / step / 2)
        return {
            "name": self.quantity.name,
            "title": self.quantity.title,
            "word": self.quantity.word,
            "unit": self.quantity.unit,
            "atLeast": self.at_least,
            "onQuality": self.on_quality,
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
    """By name: the costs worth limiting at run time, and the quality.

    Parameters are left out: all sub-networks share them, so choosing another one saves none.

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
        found[name] = Limit(quantity, False, steps, f"The minimum is {needs}, by {least.skip}.")
    found[quality_of(table).name] = _quality_limit(table)
    return found


def _quality_limit(table: TradeOffs) -> Limit:
    quality, quantity = table.quality, quality_of(table)
    at_least = quality.higher_is_better
    if quality == TOP_1:
        above, most = 1.0, "most accurate"  # `best` takes 1 or less for a fraction, not percent, and rejects it
    else:
        above, most = (0.0 if quality.unit == "%" else None), "best"
    best = best_of(table)
    reached = quantity.enough(best.accuracy, ROUND_FLOOR if at_least else ROUND_CEILING)
    none = f"The {most}, {best.skip}, reaches {reached}."
    return Limit(quantity, at_least, _quality_steps(table, quantity.name, above), none, above, on_quality=True)


def _quality_steps(table: TradeOffs, name: str, above: float | None) -> tuple[tuple[float, str], ...]:
    """What `best` returns for every limit on quality alone, from the strictest one that can be met."""
    at_least = table.quality.higher_is_better
    least = -inf if above is None else nextafter(above, inf)  # the least limit that `best` accepts
    values = {row.accuracy for row in table.rows}
    # A value below the least lower limit is never asked for; one below the least upper limit always fits.
    asked = {value for value in values if value >= least} if at_least else {max(value, least) for value in values}
    steps: list[tuple[float, str]] = []
    for value in sorted(asked, reverse=at_least):
        skip = table.best(**{name: value})
        if not steps or steps[-1][1] != skip:
            steps.append((value, skip))
    return tuple(sorted(steps, key=lambda step: step[0]))


def best_of(table: TradeOffs) -> Row:
    """The row with the best quality; among equals the cheapest."""
    cost = table.cost_name()
    return max(table.rows, key=lambda row: (table.quality.gain(row.accuracy, 0.0), -getattr(row, cost)))


def reference(table: TradeOffs) -> Row:
    """What sub-networks are compared with: the super-net or, if not measured, the one with the most multiply-adds."""
    whole = (row for row in table.rows if "T" not in row.skip)
    return next(whole, None) or max(table.rows, key=lambda row: row.macs)


def role(skip: str) -> str:
    """`"super-net"` or `"base-net"`; empty for others."""
    return {frozenset("F"): "super-net", frozenset("T"): "base-net"}.get(frozenset(skip), "")


def facts(table: TradeOffs) -> dict[str, dict[str, Any]]:
    """By skip: its role, and for every measurement its name, value and comparison with the super-net, in words."""
    top, quality = reference(table), quality_of(table)
    found = {}
    for row in table.rows:
        lines = [(quality.title, quality.text(row.accuracy), lost(table, row, named(top)))]
        for name, quantity in quantities(table).items():
            value = getattr(row, name)
            lines.append((quantity.title, quantity.text(value), _saved(value, getattr(top, name), row is top)))
        found[row.skip] = {"role": role(row.skip), "lines": lines}
    return found


def named(row: Row) -> str:
    """Within a sentence: `"the super-net"`, or the skip of another one."""
    return f"the {role(row.skip)}" if role(row.skip) else row.skip


def lost(table: TradeOffs, row: Row, against: str) -> str:
    """How far a row is from the reference, which is called `against`; empty for the reference itself."""
    quality, top = table.quality, reference(table)
    if row is top:
        return ""
    more = row.accuracy - top.accuracy
    if abs(more) < 0.5 * 10**-table.digits:
        return f"{'as accurate as' if quality == TOP_1 else 'the same as'} {against}"
    apart = quality.apart(row.accuracy, top.accuracy, table.digits)
    # Readers take "above" for better; where lower is better, the verdict must be spelled out.
    verdict = "" if quality.higher_is_better else f" ({'worse' if more > 0 else 'better'})"
    return f"{apart} {'above' if more > 0 else 'below'} {against}{verdict}"


def _saved(value: float, most: float, same: bool) -> str:
    if same or not most:
        return ""
    part = 100 * (most - value) / most
    if abs(part) < 0.05:
        return "the same"
    return f"{abs(part):.1f} % {'less' if part > 0 else 'more'}"


def verdicts(table: TradeOffs) -> dict[str, dict[str, str]]:
    """By limit and skip: on the Pareto front, or dominated by which sub-network."""
    found: dict[str, dict[str, str]] = {}
    for name in quantities(table):
        front = {row.skip for row in table.front(name)}
        dominated = table.dominated(name)
        found[name] = {
            row.skip: "on the front" if row.skip in front else f"dominated by {dominated[row.skip]}"
            for row in table.rows
        }
    return found


def _span(smallest: float, largest: float, above: float | None) -> tuple[Decimal, Decimal, Decimal]:
    """First and last value of a slider and its step: round numbers, a little below and above what they span."""
    across = largest - smallest or abs(largest) / 10 or 1.0
    raw = across / _POSITIONS
    power = Decimal(1).scaleb(floor(log10(raw)))
    step = next(power * factor for factor in (5, 2, 1) if power * factor <= Decimal(raw))
    margin = Decimal(across) * Decimal("0.06")
    low = ((Decimal(smallest) - margin) / step).to_integral_value(ROUND_FLOOR) * step
    high = ((Decimal(largest) + margin) / step).to_integral_value(ROUND_CEILING) * step
    if above is not None:
        low = max(low, (Decimal(above) / step).to_integral_value(ROUND_FLOOR) * step + step)
    return low, high, step
