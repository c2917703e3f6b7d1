"""Accuracy against cost of every sub-network: a table, its Pareto front, and the choice under a budget."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from numbers import Real
from typing import Any

from .costs import Profile, macs_unit
from .errors import BudgetError, MeasurementError

COSTS = ("latency_ms", "macs", "parameters")
_LEAST = {
    "latency_ms": "the fastest",
    "macs": "the one of fewest multiply-adds",
    "parameters": "the smallest",
}


@dataclass(frozen=True)
class Row:
    """One sub-network.

    Attributes:
        skip: which one, such as `"TTFF"`.
        accuracy: top-1 accuracy in percent.
        macs: multiply-adds of one sample.
        parameters: distinct parameters that it uses.
        latency_ms: median time of one forward pass of a whole batch; None where it was not measured.
    """

    skip: str
    accuracy: float
    macs: int
    parameters: int
    latency_ms: float | None = None


@dataclass(frozen=True)
class TradeOffs:
    """Accuracy and cost of sub-networks: a plain value that prints and survives JSON; made by `tradeoffs`.

    Row a *dominates* row b if it is at least as accurate and costs at most as much, and one of the two strictly. The
    Pareto front holds the rows that no row dominates. Rows equal in both do not dominate each other: either all or
    none of them are on the front.

    Attributes:
        rows: one for each sub-network; latency is measured for all of them or for none.
        batch_size: of the input that latency was measured with.
        device: what latency was measured on, as in `Profile`.
    """

    rows: tuple[Row, ...]
    batch_size: int = 1
    device: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        if not self.rows:
            raise MeasurementError("a trade-off table without rows: expected at least one sub-network")
        for row in self.rows:
            if not (_is_number(row.accuracy) and 0 <= row.accuracy <= 100):
                raise MeasurementError(
                    f"accuracy of {row.skip!r} is {row.accuracy!r}: expected top-1 in percent, from 0 to 100"
                )
        if len({row.skip for row in self.rows}) < len(self.rows):
            raise MeasurementError(f"a sub-network stands twice in {', '.join(row.skip for row in self.rows)}")
        unmeasured = [row.skip for row in self.rows if row.latency_ms is None]
        if unmeasured and len(unmeasured) < len(self.rows):
            raise MeasurementError(
                f"latency_ms is missing for {', '.join(unmeasured)} only: measure it for every sub-network, or for none"
            )

    @property
    def measured(self) -> tuple[str, ...]:
        """The costs that are known, latency first where it was measured."""
        return COSTS if self.rows[0].latency_ms is not None else COSTS[1:]

    def cost_name(self, cost: str | None = None) -> str:
        """The name of the cost to compare by: as given, else `latency_ms` where it was measured, else `macs`.

        Raises:
            MeasurementError: a cost that does not exist or was not measured.
        """
        if cost is None:
            return self.measured[0]
        if cost not in COSTS:
            raise MeasurementError(f"cost={cost!r}: expected one of {', '.join(COSTS)}")
        if cost not in self.measured:
            raise MeasurementError(
                "latency_ms was not measured: profile without latency=False (--no-latency), or ask for cost='macs'"
            )
        return cost

    def front(self, cost: str | None = None) -> tuple[Row, ...]:
        """The Pareto front of accuracy against one cost, cheapest (and so least accurate) first.

        Arguments:
            cost: `latency_ms`, `macs` or `parameters`; by default latency where it was measured, else macs.

        Raises:
            MeasurementError: a cost that does not exist or was not measured.

        Example:
            >>> table = TradeOffs((Row("F", 76.0, 400, 9), Row("T", 75.0, 200, 5)))
            >>> [row.skip for row in table.front()]
            ['T', 'F']
        """
        name = self.cost_name(cost)
        front = [row for row in self.rows if not any(_dominates(other, row, name) for other in self.rows)]
        return tuple(sorted(front, key=lambda row: getattr(row, name)))

    def best(
        self,
        *,
        latency_ms: float | None = None,
        macs: float | None = None,
        parameters: float | None = None,
        accuracy: float | None = None,
        **unknown: float,
    ) -> str:
        """The skip of the best sub-network within limits, in any combination.

        With a limit on a cost it is the most accurate one that meets all limits; of equally accurate ones the
        one of lowest latency (where measured), then of fewest multiply-adds, then with the fewest skipped
        stages. With a limit on accuracy alone it is the cheapest one that meets it (by latency where measured,
        else by multiply-adds); of equally cheap ones the most accurate, and so on as before.

        Arguments:
            latency_ms, macs, parameters: upper limits, in the units of `Row`.
            accuracy: lower limit, in percent.

        Raises:
            BudgetError: no limit, one that is unknown or not a finite number above 0, or limits that no
                sub-network meets; then with what comes nearest.

        Example:
            >>> table = TradeOffs((Row("F", 76.0, 400, 9), Row("T", 75.0, 200, 5)))
            >>> table.best(macs=300), table.best(accuracy=75.5)
            ('T', 'F')
        """
        given = {"latency_ms": latency_ms, "macs": macs, "parameters": parameters, "accuracy": accuracy}
        limits = self._checked({name: limit for name, limit in given.items() if limit is not None} | unknown)
        fitting = [row for row in self.rows if all(_meets(row, *limit) for limit in limits.items())]
        if not fitting:
            raise BudgetError(self._why_none(limits))
        cheapest_first = limits.keys() == {"accuracy"}
        return min(fitting, key=lambda row: _order(row, self.measured[0], cheapest_first)).skip

    def _checked(self, limits: Mapping[str, Any]) -> Mapping[str, float]:
        known = (*COSTS, "accuracy")
        if not limits:
            raise BudgetError(f"no limit was given: expected one or more of {', '.join(known)}, such as best(macs=3e9)")
        for name, limit in limits.items():
            if name not in known:
                raise BudgetError(f"unknown limit {name}={limit!r}: expected one or more of {', '.join(known)}")
            if not (_is_number(limit) and math.isfinite(limit) and limit > 0):
                raise BudgetError(f"limit {name}={limit!r}: expected a finite number above 0")
            if name == "accuracy" and limit <= 1:
                raise BudgetError(f"limit accuracy={limit!r}: expected percent, such as accuracy={100 * limit:g}")
        if "latency_ms" in limits and "latency_ms" not in self.measured:
            raise BudgetError(
                "latency_ms was not measured: profile without latency=False (--no-latency), or limit macs"
            )
        return limits

    def _why_none(self, limits: Mapping[str, float]) -> str:
        """What was asked, and how far the nearest sub-network is from it."""
        asked = " and ".join(f"{name} {_sign(name)} {limit:g}" for name, limit in limits.items())
        reasons = []
        for name, limit in limits.items():
            nearest = min(self.rows, key=lambda row: _excess(row, name, limit))
            if _meets(nearest, name, limit):
                continue
            reachable = _loosened(nearest, name)
            if name == "accuracy":
                reasons.append(f"the most accurate, {nearest.skip!r}, reaches {reachable} %; lower the limit to that")
            else:
                reasons.append(f"{_LEAST[name]}, {nearest.skip!r}, needs {reachable}; raise the limit to at least that")
        if reasons:
            return f"no sub-network meets {asked}: {'; '.join(reasons)}"
        nearest = min(self.rows, key=lambda row: sum(max(0.0, _excess(row, *limit)) for limit in limits.items()))
        misses = [name for name, limit in limits.items() if not _meets(nearest, name, limit)]
        short = " and ".join(f"{name} {_sign(name)} {_loosened(nearest, name)}" for name in misses)
        return (
            f"no sub-network meets {asked} together, though each alone can be met: {nearest.skip!r} comes "
            f"nearest; ask for {short} to get it"
        )

    def __str__(self) -> str:
        cost = self.measured[0]
        front = self.front()
        divisor, unit = macs_unit(max(row.macs for row in self.rows))
        lines = [f"{'skip':<8} {'top-1 %':>8} {unit + ' a sample':>15} {'parameters':>13} {'latency ms':>11}"]
        for row in self.rows:
            latency = "-" if row.latency_ms is None else f"{row.latency_ms:.2f}"
            mark = "  *" if row in front else ""
            macs = f"{row.macs / divisor:.3f}"
            lines.append(f"{row.skip:<8} {row.accuracy:>8.2f} {macs:>15} {row.parameters:>13,} {latency:>11}{mark}")
        return "\n".join([*lines, f"* on the Pareto front of accuracy against {cost}"])

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only, as `from_json` reads them."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "TradeOffs":
        """The inverse of `to_json`.

        Raises:
            MeasurementError: a field that no table has, one that is missing, or values that are out of range.
        """
        try:
            return cls(**{**table, "rows": tuple(Row(**row) for row in table["rows"])})
        except (KeyError, TypeError) as error:
            raise MeasurementError(
                f"trade-offs {table!r}: {error!r}; expected an object with {', '.join(cls.__dataclass_fields__)}, "
                f"and in rows a list of objects with {', '.join(Row.__dataclass_fields__)}"
            ) from error


def tradeoffs(accuracy: Mapping[str, float], cost: Profile) -> TradeOffs:
    """Join what sub-networks reach and what they cost.

    Arguments:
        accuracy: top-1 accuracy in percent by skip, as `evaluate` returns it.
        cost: of the same sub-networks, as `profile` returns it.

    Raises:
        MeasurementError: other things than these two, different sub-networks in them, or an accuracy that is no
            percentage.

    Example:
        >>> from adaptive_depth.costs import Cost, Profile
        >>> costs = {"F": Cost("F", 400, 9), "T": Cost("T", 200, 5)}
        >>> print(tradeoffs({"F": 76.0, "T": 75.0}, Profile(costs, 1, {}, {})))
        skip      top-1 %  kMACs a sample    parameters  latency ms
        F           76.00           0.400             9           -  *
        T           75.00           0.200             5           -  *
        * on the Pareto front of accuracy against macs
    """
    if not (isinstance(accuracy, Mapping) and isinstance(cost, Profile)):
        raise MeasurementError(
            f"tradeoffs received a {type(accuracy).__name__} and a {type(cost).__name__}: expected accuracies by skip, "
            "as evaluate returns them, and then a Profile"
        )
    for holder, has, needs in (("accuracy", accuracy, cost.costs), ("cost", cost.costs, accuracy)):
        missing = [skip for skip in needs if skip not in has]
        if missing:
            raise MeasurementError(
                f"{holder} lacks the sub-networks {', '.join(missing)}: evaluate and profile the same ones"
            )
    rows = tuple(
        Row(skip, accuracy[skip], found.macs, found.parameters, found.latency_ms) for skip, found in cost.costs.items()
    )
    return TradeOffs(rows, cost.batch_size, dict(cost.device))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _dominates(a: Row, b: Row, cost: str) -> bool:
    a_cost, b_cost = getattr(a, cost), getattr(b, cost)
    return a.accuracy >= b.accuracy and a_cost <= b_cost and (a.accuracy > b.accuracy or a_cost < b_cost)


def _order(row: Row, cost: str, cheapest_first: bool) -> tuple[float, ...]:
    cheap = getattr(row, cost)
    leading = (cheap, -row.accuracy) if cheapest_first else (-row.accuracy, cheap)
    return (*leading, row.macs, row.skip.count("T"))


def _sign(name: str) -> str:
    return ">=" if name == "accuracy" else "<="


def _excess(row: Row, name: str, limit: float) -> float:
    """By what part of the limit the row misses it; 0 or less where it meets it."""
    value = getattr(row, name)
    return (limit - value) / limit if name == "accuracy" else (value - limit) / limit


def _meets(row: Row, name: str, limit: float) -> bool:
    return getattr(row, name) >= limit if name == "accuracy" else getattr(row, name) <= limit


def _loosened(row: Row, name: str) -> str:
    """The row's value in four digits, rounded so that the row meets it as a limit."""
    rounding = ROUND_FLOOR if name == "accuracy" else ROUND_CEILING
    return f"{float(Context(prec=4, rounding=rounding).create_decimal(Decimal(repr(getattr(row, name))))):g}"
