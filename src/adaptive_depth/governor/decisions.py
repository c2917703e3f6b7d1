"""What a governor writes down: plain values, enough to make every decision once more."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import MeasurementError


@dataclass(frozen=True)
class Seen:
    """What one input took: `waited_ms` before it began, then `latency_ms`; `at_s` as in `Decision`."""

    at_s: float
    skip: str
    latency_ms: float
    waited_ms: float


@dataclass(frozen=True)
class Decision:
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

    number: int
    at_s: float
    waited_ms: float
    limits: Mapping[str, float]
    skip: str
    why: str
    slowdown: float
    seen: tuple[Seen, ...]

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only, as `from_json` reads them."""
        return {**asdict(self), "limits": dict(self.limits), "seen": [asdict(seen) for seen in self.seen]}

    @classmethod
    def from_json(cls, decision: Mapping[str, Any]) -> "Decision":
        """The inverse of `to_json`.

        Raises:
            MeasurementError: fields that no decision has, or missing ones.
        """
        try:
            return cls(**{**decision, "seen": tuple(Seen(**seen) for seen in decision["seen"])})
        except (KeyError, TypeError) as error:
            raise MeasurementError(
                f"decision {decision!r}: {error!r}; expected an object with {', '.join(cls.__dataclass_fields__)}"
            ) from error
