"""What a governor writes down: plain values, enough to make every decision once more."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import MeasurementError, one_line
from ..schema import Letters, NotNegative, Number, Plain, Positive, Size, one_of, parse_json


@dataclass(frozen=True)
class Seen(Plain):
    """What one input took: `waited_ms` before it began, then `latency_ms`; `at_s` and `work` as in `Decision`."""

    at_s: NotNegative
    skip: Letters
    latency_ms: Positive
    waited_ms: NotNegative
    work: Positive = 1.0


@dataclass(frozen=True)
class Decision(Plain):
    """One decision of a governor, and all that it was made from; survives JSON.

    Attributes:
        number: counted from 1.
        at_s: seconds on the governor's own clock, which never goes back.
        waited_ms: how long the input had waited.
        limits: what the callback allowed.
        skip: the depth.
        why: `"start"`, `"stay"`, `"deeper"` or `"shallower"`.
        slowdown: how many times its profile the device was expected to take.
        seen: what was observed since the decision before.
        work: how many times that of the table's input the work of this one was expected to be.
    """

    reading_error = MeasurementError

    number: Size
    at_s: NotNegative
    waited_ms: NotNegative
    limits: Mapping[str, Number]
    skip: Letters
    why: Annotated[str, one_of("start", "stay", "deeper", "shallower")]
    slowdown: Positive
    seen: tuple[Seen, ...]
    work: Positive = 1.0


def read_log(path: str | os.PathLike[str]) -> tuple[Decision, ...]:
    """The decisions in a file that `adaptive-depth run --log` wrote, a line each, for `replay`.

    Raises:
        MeasurementError: a file that cannot be read, or the first line that is no decision.
    """
    decisions, mend = [], "expected decisions, one a line, as adaptive-depth run --log writes them"
    try:
        with Path(path).open("rb") as file:
            lines = iter(lambda: file.readline(_LONGEST), b"")
            for number, line in enumerate(lines, 1):
                plain = parse_json(line, MeasurementError, f"line {number} of {path}", mend)
                decisions.append(Decision.from_json(plain))
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read ({one_line(error)}): {mend}") from error
    return tuple(decisions)


_LONGEST = 1 << 20  # of a line, in bytes; what is longer is read as two, neither of which is a decision
