"""The options of a request: a depth, a deadline, a minimum quality."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from ..choose.tradeoffs import TradeOffs
from ..errors import AdaptiveDepthError
from ..schema import Letters, Number, Plain, Positive, from_plain
from .problems import Problem

HEADER = "adaptive-depth-"  # prefix of headers that are options


class WishError(AdaptiveDepthError):
    """An invalid option, or options that contradict each other."""


@dataclass(frozen=True)
class Wishes(Plain):
    """The options of one request; None where not set.

    Attributes:
        skip: this depth.
        deadline_ms: an answer within this many milliseconds, or none: later ones are refused. Without it, the server's
            own target applies, which is only a goal: whatever runs is answered, late or not.
        accuracy: a depth with at least this quality in the table; at most this, if lower is better.

    Raises:
        WishError: both a depth and a quality, which each determine the depth.

    Example:
        >>> Wishes.of([("deadline_ms", "40"), ("Adaptive-Depth-Accuracy", "75.5")])
        Wishes(skip=None, deadline_ms=40.0, accuracy=75.5)
        >>> from adaptive_depth import Row
        >>> table = TradeOffs((Row("F", 80.0, macs=4, parameters=9), Row("T", 60.0, macs=2, parameters=5)))
        >>> Wishes(accuracy=70.0).depths(table, ("F", "T"))
        ('F',)
    """

    reading_error = WishError

    skip: Letters | None = None
    deadline_ms: Positive | None = None
    accuracy: Number | None = None

    def __post_init__(self) -> None:
        if self.skip is not None and self.accuracy is not None:
            raise WishError(
                f"skip={self.skip} and accuracy={self.accuracy:g} both determine the depth: set only one of them"
            )

    @classmethod
    def of(cls, told: Iterable[tuple[str, str]]) -> "Wishes":
        """The options in a request's texts.

        Arguments:
            told: names and values of parameters (`deadline_ms`) and headers (`Adaptive-Depth-Deadline-Ms`).

        Raises:
            Problem: an unknown, unreadable or repeated option, or one that contradicts another.
        """
        known, found = [field.name for field in fields(cls)], {}
        for name, text in told:
            wish = name.lower().removeprefix(HEADER).replace("-", "_")
            if wish not in known:
                raise Problem("wish", f"{name}={text[:80]!r} is not an option: expected some of {', '.join(known)}")
            if wish in found:
                raise Problem("wish", f"{wish} is in the request twice: set it once")
            found[wish] = text[:80] if wish == "skip" else _number(wish, text)
        try:
            return from_plain(cls, found, WishError, "the request")
        except WishError as error:
            raise Problem("wish", str(error)) from error

    def depths(self, table: TradeOffs | None, skips: tuple[str, ...]) -> tuple[str, ...] | None:
        """The accepted depths among `skips`; None for any.

        Arguments:
            table: quality by depth; None if unknown.
            skips: the depths that can run.

        Raises:
            Problem: a depth that is not served, or a quality that none reaches.
        """
        if self.skip is not None:
            if self.skip not in skips:
                raise Problem("wish", f"skip={self.skip} is not served: expected one of {', '.join(skips)}")
            return (self.skip,)
        if self.accuracy is None:
            return None
        if table is None:
            raise Problem("wish", f"accuracy={self.accuracy:g}: this model's quality was not measured; set a skip")
        if table.quality.unit == "%" and 0 < self.accuracy <= 1:
            raise Problem(
                "wish", f"accuracy={self.accuracy:g}: expected percent, such as accuracy={100 * self.accuracy:g}"
            )
        rows = [row for row in table.rows if row.skip in skips]
        good = tuple(row.skip for row in rows if table.quality.gain(row.accuracy, self.accuracy) >= 0)
        if not good:
            best = max(rows, key=lambda row: table.quality.gain(row.accuracy, 0.0))
            raise Problem(
                "wish",
                f"accuracy={self.accuracy:g}: the best depth, {best.skip}, has {table.quality.noun} {table.text(best)}",
            )
        return good


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise Problem("wish", f"{name}={text[:80]!r}: expected a number, such as {name}=50") from error
    if not math.isfinite(value):
        raise Problem("wish", f"{name}={text[:80]!r}: expected a finite number")
    return value
