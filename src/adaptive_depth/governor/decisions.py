"""What a governor writes down: plain values, enough to make every decision once more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from ..errors import MeasurementError
from ..schema import Letters, NotNegative, Number, Plain, Positive, Size, one_of


@dataclass(frozen=True)
class Seen(Plain):
    """What one input took: `waited_ms` before it began, then `latency_ms`; `at_s` as in `Decision`."""

    at_s: NotNegative
    skip: Letters
    latency_ms: Positive
    waited_ms: NotNegative


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
