"""Quality against cost of every sub-network: a table, its Pareto front, and the choice under a budget."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from difflib import get_close_matches
from numbers import Real
from typing import Any

from ..errors import BudgetError, MeasurementError
from ..quality import TOP_1, Quality
from ..schema import Count, Letters, NotNegative, Number, Plain, Positive, Size, to_plain
from ..text import figures, left_out_lines, or_dash, table
from .costs import COSTS, TIMED, Profile, macs_unit, text_columns, tokens_a_second, without_later

_QUALITIES = {"accuracy", "quality"}  # names of the limit on what `Row.accuracy` holds


@dataclass(frozen=True)
class Row(Plain):
    """One sub-network.

    Attributes:
        skip: which one, such as `"TTFF"`.
        accuracy: top-1 accuracy in percent, or the table's `quality`.
        macs: multiply-adds of one sample.
        parameters: distinct parameters that it uses.
        latency_ms: median time of one forward pass of a whole batch; None if not measured.
        memory_mb, energy_mj: of one such pass, as in `Cost`; None if not measured.
        alone: the quality of a network of this depth trained alone; None if there is none.
        latency_high_ms: the upper end of the 95 % interval of the median latency; None if there is none.
        first_token_ms, token_ms, cache_kb: of generated text, as in `Cost`; None if not measured.
        throughput: samples per second by batch size, as in `Cost`.
    """

    skip: Letters
    accuracy: Number
    macs: Count
    parameters: Count
    latency_ms: Positive | None = None
    memory_mb: NotNegative | None = None
    energy_mj: NotNegative | None = None
    alone: Number | None = None
    latency_high_ms: Positive | None = None
    first_token_ms: Positive | None = None
    token_ms: Positive | None = None
    cache_kb: NotNegative | None = None
    # A dict cannot be hashed, but a row can.
    throughput: dict[Size, Positive] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "throughput", {int(batch): rate for batch, rate in self.throughput.items()})


@dataclass(frozen=True)
class Choice:
    """A sub-network within limits, and why it was chosen.

    Attributes:
        row: the sub-network.
        limits: what was requested.
        ties: skips of others within the limits that are just as good: equal in the deciding figure or, if latency
            decided, indistinguishable in it.
        why: the same in words, one sentence each.
    """

    row: Row
    limits: dict[str, float]
    ties: tuple[str, ...]
    why: tuple[str, ...]

    @property
    def skip(self) -> str:
        return self.row.skip

    def __str__(self) -> str:
        return "\n".join([f"Chosen: {self.skip}", *self.why])


@dataclass(frozen=True)
class TradeOffs(Plain):
    """Quality and cost of sub-networks: a plain value that prints and survives JSON; made by `tradeoffs`.

    Row a *dominates* row b if it is at least as good and costs at most as much, and one of the two strictly. The
    Pareto front holds the rows that no row dominates. Rows equal in both do not dominate each other: either all or
    none of them are on the front.

    Attributes:
        rows: one for each sub-network; each cost is measured for all of them or for none.
        batch_size: of the input for the latency measurement.
        device: what latency was measured on, as in `Profile`.
        ties: pairs of sub-networks with indistinguishable latencies or times per token (`Profile.ties`).
        images: the number of samples behind the accuracies; None if unknown.
        quality: what `Row.accuracy` is: its name, unit and direction.
        prompt_tokens: the length of the prompt for `first_token_ms`; None if unknown.
        left_out: depths that cannot be used on their own, and why (`Profile.left_out`).
    """

    reading_error = MeasurementError

    rows: tuple[Row, ...]
    batch_size: Size = 1
    device: dict[str, Any] = field(default_factory=dict)
    ties: tuple[tuple[Letters, Letters], ...] = ()
    images: Size | None = None
    quality: Quality = TOP_1
    prompt_tokens: Size | None = None
    left_out: dict[Letters, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        object.__setattr__(self, "ties", tuple((a, b) for a, b in self.ties))
        if not self.rows:
            raise MeasurementError("a trade-off table without rows: expected at least one sub-network")
        for row in self.rows:
            check_value(self.quality, f"{self.quality.noun} of {row.skip!r}", row.accuracy)
            if row.alone is not None:
                check_value(self.quality, f"{self.quality.noun} of {row.skip!r} trained alone", row.alone)
                # These accuracies are often typed in, and a fraction such as 0.76 would pass as 0.76 %.
                if self.quality == TOP_1 and 0 < row.alone <= 1:
                    raise MeasurementError(
                        f"accuracy of {row.skip!r} trained alone is {row.alone!r}: expected percent, such as "
                        f"{100 * row.alone:g}"
                    )
        skips = [row.skip for row in self.rows]
        if len({*skips}) < len(skips):
            raise MeasurementError(f"a sub-network is listed twice: {', '.join(skips)}")
        if len({len(skip) for skip in skips}) > 1:
            raise MeasurementError(f"a table of the sub-networks {', '.join(skips)}: expected skips of the same length")
        if strange := {skip for pair in self.ties for skip in pair} - {*skips}:
            raise MeasurementError(f"ties name {', '.join(sorted(strange))}: expected some of {', '.join(skips)}")
        if len({frozenset(row.throughput) for row in self.rows}) > 1:
            raise MeasurementError("throughput was measured at different batch sizes: expected the same ones for all")
        for cost in COSTS:
            unmeasured = [row.skip for row in self.rows if getattr(row, cost) is None]
            if unmeasured and len(unmeasured) < len(self.rows):
                raise MeasurementError(
                    f"{cost} is missing for {', '.join(unmeasured)} only: measure it for every sub-network, or for none"
                )

    @property
    def digits(self) -> int:
        """The decimal places that distinguish the sub-networks' quality."""
        return self.quality.digits(row.accuracy for row in self.rows)

    def text(self, row: Row) -> str:
        """The quality of a sub-network, with its unit.

        Example:
            >>> table = TradeOffs((Row("F", 0.031, 400, 9),), quality=Quality("RMSE", "m", higher_is_better=False))
            >>> table.text(table.rows[0])
            '0.0310 m'
        """
        return self.quality.text(row.accuracy, self.digits)

    @property
    def measured(self) -> tuple[str, ...]:
        """The known costs, with latency first if measured, or else the time per token."""
        # The first row is enough: a cost is measured for all rows or for none.
        return tuple(cost for cost in COSTS if getattr(self.rows[0], cost) is not None)

    def tokens_a_second(self, row: Row) -> dict[str, float]:
        """A sub-network's rates for text, of the whole batch: `prompt` (prefill) and `new` (decoding), if measured.

        Example:
            >>> table = TradeOffs((Row("F", 12.5, 400, 9, first_token_ms=50.0, token_ms=10.0),), prompt_tokens=100)
            >>> table.tokens_a_second(table.rows[0])
            {'prompt': 2000.0, 'new': 100.0}
        """
        return tokens_a_second(row, self.batch_size, self.prompt_tokens)

    @property
    def chance(self) -> float | None:
        """Differences in accuracy up to this many points may be chance (two standard errors).

        This is for independent samples; on the same samples, as `evaluate` measures, the threshold is somewhat lower.
        None if the number of images is unknown.

        Example:
            >>> TradeOffs((Row("F", 90.0, 400, 9), Row("T", 90.0, 200, 5)), images=900).chance
            2.828...
        """
        if not self.images or self.quality != TOP_1:
            return None
        # Kept below 100 %, where the formula claims no error at all.
        wrong = min(max(row.accuracy for row in self.rows) / 100, 1 - 0.5 / self.images)
        return 200 * math.sqrt(2 * wrong * (1 - wrong) / self.images)

    @property
    def doubt(self) -> str | None:
        """What differences in accuracy may be chance, in a sentence; None if the number of images is unknown.

        Example:
            >>> TradeOffs((Row("F", 90.0, 400, 9), Row("T", 88.0, 200, 5)), images=900).doubt
            'All depths are within 2.0 points; on 900 images, differences of less than 2.8 points may be chance.'
        """
        if self.chance is None:
            return None
        said = f"on {self.images} images, differences of less than {self.chance:.1f} points may be chance."
        found = [row.accuracy for row in self.rows]
        spread = max(found) - min(found)
        return f"All depths are within {spread:.1f} points; {said}" if 0 < spread < self.chance else said.capitalize()

    def cost_name(self, cost: str | None = None) -> str:
        """The name of the cost to compare by: as given, or else the first measured one of `latency_ms`, `token_ms`,
        `first_token_ms` and `macs`.

        Raises:
            MeasurementError: a cost that does not exist or was not measured.
        """
        if cost is None:
            return self.measured[0]
        if cost not in COSTS:
            raise MeasurementError(f"cost={cost!r}: expected one of {', '.join(COSTS)}")
        if cost not in self.measured:
            known = ", ".join(self.measured)
            raise MeasurementError(f"{cost} was not measured, only {known}: {COSTS[cost].how}")
        return cost

    def front(self, cost: str | None = None) -> tuple[Row, ...]:
        """The Pareto front of quality against one cost, cheapest (and thus worst) first.

        Arguments:
            cost: one of `measured`; by default latency if it was measured, else macs.

        Raises:
            MeasurementError: a cost that does not exist or was not measured.

        Example:
            >>> table = TradeOffs((Row("F", 76.0, 400, 9), Row("T", 75.0, 200, 5)))
            >>> [row.skip for row in table.front()]
            ['T', 'F']
        """
        name = self.cost_name(cost)
        front = [row for row in self.rows if not any(self._dominates(other, row, name) for other in self.rows)]
        return tuple(sorted(front, key=lambda row: getattr(row, name)))

    def dominated(self, cost: str | None = None) -> dict[str, str]:
        """The sub-networks that are not on the front, each with one on the front that dominates it.

        In the paper's Table 6 some shallower sub-networks beat deeper ones, which are then never worth choosing.

        Arguments:
            cost: one of `measured`; by default latency if it was measured, else macs.

        Returns:
            By skip, the best one on the front that costs no more.

        Raises:
            MeasurementError: a cost that does not exist or was not measured.

        Example:
            >>> table = TradeOffs((Row("F", 76.0, 400, 9), Row("T", 76.5, 200, 5)))
            >>> table.dominated()
            {'F': 'T'}
        """
        name = self.cost_name(cost)
        front = self.front(name)
        better = {row.skip: [other for other in front if self._dominates(other, row, name)] for row in self.rows}
        return {skip: max(others, key=self._goodness).skip for skip, others in better.items() if others}

    def _goodness(self, row: Row) -> float:
        """A number that is higher for the better row."""
        return self.quality.gain(row.accuracy, 0.0)

    def _dominates(self, a: Row, b: Row, cost: str) -> bool:
        a_cost, b_cost, gain = getattr(a, cost), getattr(b, cost), self.quality.gain(a.accuracy, b.accuracy)
        return gain >= 0 and a_cost <= b_cost and (gain > 0 or a_cost < b_cost)

    def choices(self, cost: str | None = None) -> tuple[tuple[float, str], ...]:
        """What `best` returns for every limit on one cost: (limit, skip), sorted by limit.

        For a limit L, `best(cost=L)` is the skip of the last entry whose limit does not exceed L; below the first one
        nothing fits.

        Raises:
            MeasurementError: a cost that does not exist or was not measured.

        Example:
            >>> TradeOffs((Row("F", 76.0, 400, 9), Row("T", 75.0, 200, 5))).choices("macs")
            ((200, 'T'), (400, 'F'))
        """
        name = self.cost_name(cost)
        steps: dict[str, float] = {}
        # The answer can change only at these limits.
        for limit in sorted({getattr(row, name) for row in self.rows}):
            steps.setdefault(self.best(**{name: limit}), limit)
        return tuple((limit, skip) for skip, limit in steps.items())

    def best(
        self,
        *,
        latency_ms: float | None = None,
        macs: float | None = None,
        energy_mj: float | None = None,
        memory_mb: float | None = None,
        parameters: float | None = None,
        first_token_ms: float | None = None,
        token_ms: float | None = None,
        cache_kb: float | None = None,
        accuracy: float | None = None,
        quality: float | None = None,
        **unknown: float,  # named in a BudgetError, not a TypeError
    ) -> str:
        """The skip of the best sub-network within limits, in any combination; `choose` also says why.

        With a limit on a cost, it is the one with the best quality that meets all limits; ties go to the cheapest
        (by `cost_name()`: latency or time per token if measured), then to the fewest multiply-adds, then to the fewest
        skipped stages. With a limit on quality only, it is the cheapest one that meets it; ties go to the best, then as
        before.

        Arguments:
            latency_ms, macs, energy_mj, memory_mb, parameters, first_token_ms, token_ms, cache_kb: upper limits, in
                the units of `Row`.
            accuracy: lower limit on top-1, in percent.
            quality: a limit on the table's quality: a lower one, or an upper one if lower is better.

        Raises:
            BudgetError: no limit, one that is unknown or not a finite number above 0, or limits that no
                sub-network meets; the message then names the closest.

        Example:
            >>> table = TradeOffs((Row("F", 76.0, 400, 9), Row("T", 75.0, 200, 5)))
            >>> table.best(macs=300), table.best(accuracy=75.5)
            ('T', 'F')
        """
        given = {"latency_ms": latency_ms, "macs": macs, "energy_mj": energy_mj, "memory_mb": memory_mb}
        given |= {"parameters": parameters, "first_token_ms": first_token_ms, "token_ms": token_ms}
        given |= {"cache_kb": cache_kb, "accuracy": accuracy, "quality": quality}
        return self._fitting({name: limit for name, limit in given.items() if limit is not None} | unknown)[0].skip

    def choose(self, **limits: float | None) -> Choice:
        """What `best` returns for the same limits, with its ties and why it was chosen.

        Arguments:
            **limits: as for `best`; None is no limit.

        Raises:
            BudgetError: as for `best`.

        Example:
            >>> print(TradeOffs((Row("F", 76.0, 400, 9), Row("T", 76.0, 200, 5))).choose(macs=500))
            Chosen: T
            It is the most accurate of the 2 sub-networks within macs <= 500: 76.00 %.
            Equally accurate: F; T has the lowest macs.
            Compared with the super-net: 50.0 % less multiply-adds.
        """
        asked = {name: limit for name, limit in limits.items() if limit is not None}
        fitting = self._fitting(asked)
        best, ties = fitting[0], self._ties(fitting, asked)
        return Choice(best, asked, ties, tuple(self._why(fitting, asked, ties)))

    def _fitting(self, given: Mapping[str, Any]) -> list[Row]:
        """The sub-networks within the limits, best first."""
        limits = self._checked(given)
        fitting = [row for row in self.rows if all(self._meets(row, *limit) for limit in limits.items())]
        if not fitting:
            raise BudgetError(self._why_none(limits))
        cheapest_first = limits.keys() <= _QUALITIES
        return sorted(fitting, key=lambda row: self._order(row, self.measured[0], cheapest_first))

    def _order(self, row: Row, cost: str, cheapest_first: bool) -> tuple[float, ...]:
        cheap, good = getattr(row, cost), -self._goodness(row)
        return (*((cheap, good) if cheapest_first else (good, cheap)), row.macs, row.skip.count("T"))

    def _excess(self, row: Row, name: str, limit: float) -> float:
        """The fraction of the limit by which the row misses it; 0 or less if it meets it."""
        if name in _QUALITIES:
            # A limit of 0 is valid for a signed quality.
            return self.quality.gain(limit, row.accuracy) / (abs(limit) or 1.0)
        return (getattr(row, name) - limit) / limit

    def _meets(self, row: Row, name: str, limit: float) -> bool:
        return self.quality.gain(row.accuracy, limit) >= 0 if name in _QUALITIES else getattr(row, name) <= limit

    def _sign(self, name: str) -> str:
        return ">=" if name in _QUALITIES and self.quality.higher_is_better else "<="

    def _in_words(self, limits: Mapping[str, float]) -> str:
        return " and ".join(self._limit_in_words(name, f"{limit:,.10g}") for name, limit in limits.items())

    def _limit_in_words(self, name: str, limit: str) -> str:
        """Such as `"latency_ms <= 5"`; a limit on quality by the quality's own name and unit."""
        if name == "quality":
            return f"{self.quality.name} {self._sign(name)} {limit} {self.quality.unit}".rstrip()
        return f"{name} {self._sign(name)} {limit}"

    def _loosened(self, row: Row, name: str) -> str:
        """The row's value in four digits, rounded so that the row meets it as a limit."""
        lower = self._sign(name) == ">="
        value = row.accuracy if name in _QUALITIES else getattr(row, name)
        rounding = ROUND_FLOOR if lower else ROUND_CEILING
        # Via `repr`, because the binary value may be just above the printed one and would be rounded up again.
        return f"{float(Context(prec=4, rounding=rounding).create_decimal(Decimal(repr(value)))):g}"

    def _against(self, row: Row, full: Row, cost: str) -> str:
        """What a sub-network loses and saves compared with the super-net."""
        lost = self.quality.gain(full.accuracy, row.accuracy)
        part = 100 * (1 - getattr(row, cost) / getattr(full, cost))
        apart = self.quality.apart(full.accuracy, row.accuracy, self.digits)
        if self.quality == TOP_1:
            said = f"{apart} {'less' if lost > 0 else 'more'} accurate"
        else:
            said = f"{self.quality.name} {apart} {'worse' if lost > 0 else 'better'}"
        named = [said] if round(lost, self.digits) else []
        return ", ".join([*named, f"{abs(part):.1f} % {'less' if part >= 0 else 'more'} {COSTS[cost].word}"])

    def _ties(self, fitting: Sequence[Row], limits: Mapping[str, float]) -> tuple[str, ...]:
        """Others as good as the best: equally accurate or, if the cheapest was requested, equally cheap."""
        best, cost = fitting[0], self.measured[0]
        if not limits.keys() <= _QUALITIES:
            return tuple(row.skip for row in fitting[1:] if row.accuracy == best.accuracy)
        return tuple(
            row.skip
            for row in fitting[1:]
            # Only times have measured ties; other costs are exact.
            if getattr(row, cost) == getattr(best, cost) or (cost in TIMED and self._tied(row, best))
        )

    def _tied(self, a: Row, b: Row) -> bool:
        return (a.skip, b.skip) in self.ties or (b.skip, a.skip) in self.ties

    def _why(self, fitting: Sequence[Row], limits: Mapping[str, float], ties: Sequence[str]) -> Iterator[str]:
        best, cost = fitting[0], self.measured[0]
        within = f"of the {len(fitting)} sub-networks within {self._in_words(limits)}"
        if len(fitting) == 1:
            yield f"It is the only sub-network within {self._in_words(limits)}: {self.text(best)}."
        elif limits.keys() <= _QUALITIES:
            yield f"It has the lowest {cost} {within}: {getattr(best, cost):,.4g}."
            if ties:
                yield f"Statistically indistinguishable from it: {', '.join(ties)}."
        else:
            most = "the most accurate" if self.quality == TOP_1 else f"the best in {self.quality.name}"
            yield f"It is {most} {within}: {self.text(best)}."
            if ties:
                equal = "Equally accurate" if self.quality == TOP_1 else "Equally good"
                yield f"{equal}: {', '.join(ties)}; {best.skip} has the lowest {cost}."
        full = next((row for row in self.rows if "T" not in row.skip), None)
        if full is not None and full is not best:
            times = "latencies" if cost == "latency_ms" else "times"
            tied = self._tied(best, full) and cost in TIMED
            noise = f" (but the two {times} are statistically indistinguishable)" if tied else ""
            yield f"Compared with the super-net: {self._against(best, full, cost)}{noise}."
        if (plain := self.plain_instead(best.skip)) is not None:
            assert plain.alone is not None
            most = self.quality.text(plain.alone, self.digits)
            cheaper = "at the same cost" if plain is best else f"at a lower {cost}, {getattr(plain, cost):,.4g}"
            yield (
                f"A plain network of depth {plain.skip}, trained alone, is better {cheaper}: {most}. If you need only "
                "this depth, train and deploy that network."
            )
        if best.latency_high_ms and best.latency_high_ms > limits.get("latency_ms", math.inf):
            yield (
                f"The median meets the limit, but its 95 % interval reaches {best.latency_high_ms:.4g} ms: measure "
                "again on a quiet machine, or lower the limit."
            )

    def plain_instead(self, skip: str) -> Row | None:
        """The depth of a network trained alone that beats a sub-network in quality and costs no more, if there is one.

        Example:
            >>> rows = Row("F", 44.9, 400, 9, alone=58.7), Row("T", 40.2, 200, 5, alone=49.0)
            >>> TradeOffs(rows).plain_instead("F").skip, TradeOffs(rows).plain_instead("T").skip
            ('F', 'T')
        """
        cost = self.cost_name()
        chosen = next(row for row in self.rows if row.skip == skip)
        better = [
            (self.quality.gain(row.alone, 0.0), -getattr(row, cost), row)
            for row in self.rows
            if row.alone is not None
            and self.quality.gain(row.alone, chosen.accuracy) > 0
            and getattr(row, cost) <= getattr(chosen, cost)
        ]
        return max(better, key=lambda each: each[:2])[2] if better else None  # rows have no order among themselves

    def _checked(self, limits: Mapping[str, Any]) -> Mapping[str, float]:
        known = (*COSTS, "accuracy" if self.quality == TOP_1 else "quality")
        if not limits:
            raise BudgetError(f"no limit was given: expected one or more of {', '.join(known)}, such as best(macs=3e9)")
        for name, limit in limits.items():
            if name not in (*known, "quality"):
                near = get_close_matches(name, (*known, "quality"), n=1)
                meant = f" (did you mean {near[0]}?)" if near else ""
                if name == "accuracy":
                    meant = f" (this table has {self.quality.noun}: limit quality instead)"
                raise BudgetError(f"unknown limit {name}={limit!r}{meant}: expected one or more of {', '.join(known)}")
            # A log-likelihood, for example, is limited by a negative number.
            signed = name == "quality" and self.quality.unit != "%"
            if not (_is_number(limit) and math.isfinite(limit) and (signed or limit > 0)):
                raise BudgetError(f"limit {name}={limit!r}: expected a finite number{'' if signed else ' above 0'}")
            if name == "accuracy" and limit <= 1:
                raise BudgetError(f"limit accuracy={limit!r}: expected percent, such as accuracy={100 * limit:g}")
        for name in limits:
            if name in COSTS and name not in self.measured:
                raise BudgetError(f"{name} was not measured: {COSTS[name].how}, or limit macs")
        return limits

    def _why_none(self, limits: Mapping[str, float]) -> str:
        """What was requested, and how far the closest sub-network is from it."""
        asked = self._in_words(limits)
        reasons = []
        for name, limit in limits.items():
            nearest = min(self.rows, key=lambda row: self._excess(row, name, limit))
            if self._meets(nearest, name, limit):
                continue
            reachable = self._loosened(nearest, name)
            if name in _QUALITIES:
                most = "the most accurate" if self.quality == TOP_1 else "the best"
                loosen = "lower" if self.quality.higher_is_better else "raise"
                reached = f"{reachable} {self.quality.unit}".rstrip()
                reasons.append(f"{most}, {nearest.skip!r}, reaches {reached}; {loosen} the limit to that")
            else:
                reasons.append(
                    f"{COSTS[name].least}, {nearest.skip!r}, needs {reachable}; raise the limit to at least that"
                )
        if reasons:
            return f"no sub-network meets {asked}: {'; '.join(reasons)}"
        # Meeting one limit by far does not make up for missing another.
        nearest = min(self.rows, key=lambda row: sum(max(0.0, self._excess(row, *limit)) for limit in limits.items()))
        misses = [name for name, limit in limits.items() if not self._meets(nearest, name, limit)]
        short = " and ".join(self._limit_in_words(name, self._loosened(nearest, name)) for name in misses)
        return (
            f"no sub-network meets {asked} together, although each alone can be met: {nearest.skip!r} comes "
            f"closest; set {short} to get it"
        )

    def __str__(self) -> str:
        cost, dominated = self.measured[0], self.dominated()
        lines = table(self._columns(dominated))
        lines.append(f"* on the Pareto front of {self.quality.noun} against {cost}")
        if not self.quality.higher_is_better:
            lines.append(f"Lower {self.quality.name} is better.")
        if (doubt := self.doubt) is not None:
            lines.append(doubt)
        behind = [row for row in self.rows if row.alone is not None and self.quality.gain(row.accuracy, row.alone) < 0]
        if behind:
            gaps = [self.quality.gain(row.alone or 0.0, row.accuracy) for row in behind]
            unsure = self.chance is not None and max(gaps) < self.chance
            what = (
                "which may be chance: measure on more images" if unsure else "train longer if validation still improved"
            )
            lines.append(
                f"Networks trained alone are better at {', '.join(row.skip for row in behind)}: {what}, or deploy "
                "plain ones if one depth is enough."
            )
        place = ", ".join(str(each) for each in map(self.device.get, ("processor", "backend")) if each)
        on = f" on {place}" if place else ""
        if "latency_ms" in self.measured and self.device:
            lines.append(f"Latency is for a batch of {self.batch_size}{on}.")
        if {"token_ms", "first_token_ms"} & {*self.measured}:
            lines.append(f"Text times are for a {self.of_text()}{on}.")
        lines += left_out_lines(self.left_out)
        return "\n".join(lines)

    def of_text(self) -> str:
        """What times of generated text refer to: `"batch of 1, after a prompt of 512 tokens"`."""
        known = "" if self.prompt_tokens is None else f", after a prompt of {self.prompt_tokens} tokens"
        return f"batch of {self.batch_size}{known}"

    def _columns(self, dominated: Mapping[str, str]) -> Iterator[tuple[str, str, list[str]]]:
        rows, digits = self.rows, self.digits
        divisor, unit = macs_unit(max(row.macs for row in rows))
        yield "skip", "<6", [row.skip if row.skip in dominated else f"{row.skip} *" for row in rows]
        measured_in = f" {self.quality.unit}".rstrip()
        title = f"{self.quality.name}{measured_in}"
        yield title, ">6", [f"{row.accuracy:.{digits}f}" for row in rows]
        if any(row.alone is not None for row in rows):
            yield f"alone{measured_in}", ">6", [or_dash(row.alone, digits) for row in rows]
            gains = [None if row.alone is None else self.quality.gain(row.accuracy, row.alone) for row in rows]
            yield "gain", ">6", ["-" if gain is None else f"{gain:+.{digits}f}" for gain in gains]
        yield f"{unit} a sample", ">6", figures([row.macs / divisor for row in rows], 3)
        yield "parameters", ">6", [f"{row.parameters:,}" for row in rows]
        text = text_columns(rows, self.batch_size, self.prompt_tokens)
        if "latency_ms" in self.measured or not text:
            yield "latency ms", ">6", figures([row.latency_ms for row in rows])
        yield from text
        for title, name in (("memory MB", "memory_mb"), ("energy mJ", "energy_mj")):
            if name in self.measured:
                yield title, ">6", figures([getattr(row, name) for row in rows])
        if dominated:
            yield "dominated by", "<4", [dominated.get(row.skip, "") for row in rows]

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only, as `from_json` reads them."""
        plain = without_later(to_plain(self))
        plain["rows"] = [without_later(row) for row in plain["rows"]]
        if self.quality == TOP_1:  # as version 0.1 wrote it
            del plain["quality"]
        return plain


def tradeoffs(
    accuracy: Mapping[str, float],
    cost: Profile,
    *,
    alone: Mapping[str, float] | None = None,
    network: str = "",
    images: int | None = None,
    quality: Quality | None = None,
) -> TradeOffs:
    """Join the quality and the cost of sub-networks; the two may come from different machines.

    Arguments:
        accuracy: top-1 accuracy in percent by skip, or another quality, as `evaluate` returns it; depths that the
            profile left out are ignored.
        cost: of the same sub-networks, as `profile` returns it.
        alone: the same for networks trained alone at some of these depths, for comparison, by skip.
        network: the `fingerprint` of the network with this accuracy; if given, a profile of another architecture or
            cut is rejected.
        images: the number of samples behind the accuracy; if given, the table says which differences may be chance.
        quality: what these numbers measure; by default as `evaluate` recorded it, or top-1 in percent for a plain dict.

    Raises:
        MeasurementError: arguments of other types, different sub-networks in the two, a profile of another network,
            an accuracy that is not a percentage, or numbers of another quality.

    Example:
        >>> from adaptive_depth.choose.costs import Cost, Profile
        >>> costs = {"F": Cost("F", 400, 9), "T": Cost("T", 200, 5)}
        >>> print(tradeoffs({"F": 76.0, "T": 75.0}, Profile(costs, 1, {}, {})))
        skip   top-1 % kMACs a sample parameters latency ms
        F *      76.00          0.400          9          -
        T *      75.00          0.200          5          -
        * on the Pareto front of accuracy against macs
    """
    if not (isinstance(accuracy, Mapping) and isinstance(cost, Profile)):
        raise MeasurementError(
            f"tradeoffs received a {type(accuracy).__name__} and a {type(cost).__name__}: expected accuracies by skip, "
            "as evaluate returns them, and then a Profile"
        )
    told = getattr(accuracy, "quality", None)
    if quality is not None and told is not None and quality != told:
        raise MeasurementError(f"these numbers measure {told}, but quality={quality} was given: leave out quality")
    if network and cost.network and network != cost.network:
        raise MeasurementError(
            f"the profile is of another network or another cut of it (fingerprint {cost.network}, the accuracy's is "
            f"{network}): profile the network that has this accuracy"
        )
    for holder, has, needs in (("accuracy", accuracy, cost.costs), ("cost", cost.costs, accuracy)):
        missing = [skip for skip in needs if skip not in has and skip not in cost.left_out]
        if missing:
            raise MeasurementError(
                f"{holder} lacks the sub-networks {', '.join(missing)}: evaluate and profile the same ones"
            )
    alone = alone or {}
    if foreign := [skip for skip in alone if skip not in cost.costs]:
        raise MeasurementError(
            f"alone names {', '.join(map(repr, foreign))}: expected skips of this network, {', '.join(cost.costs)}"
        )
    # The costs of a row have the same names as those of a `Cost`.
    costs = [each.name for each in fields(Row) if each.name not in ("skip", "accuracy", "alone")]
    rows = (
        Row(skip, accuracy[skip], alone=alone.get(skip), **{name: getattr(found, name) for name in costs})
        for skip, found in cost.costs.items()
    )
    device = {**cost.device, "backend": cost.backend}
    judged_by = quality or told or TOP_1
    of_text: Any = {"prompt_tokens": cost.prompt_tokens, "left_out": cost.left_out}
    return TradeOffs(tuple(rows), cost.batch_size, device, cost.ties(), images, judged_by, **of_text)


def check_value(quality: Quality, what: str, value: object) -> None:
    """Raise a MeasurementError if a number is not a valid value of a quality."""
    if not _is_number(value) or not math.isfinite(value):  # type: ignore[arg-type]
        expected = "top-1 in percent, from 0 to 100" if quality == TOP_1 else "a finite number"
        raise MeasurementError(f"{what} is {value!r}: expected {expected}")
    if quality.unit == "%" and quality.higher_is_better and not 0 <= value <= 100:  # type: ignore[operator]
        raise MeasurementError(f"{what} is {value!r}: expected {quality.name} in percent, from 0 to 100")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # True is also a Real
