"""What sub-networks cost: plain values, which need no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .errors import MeasurementError


@dataclass(frozen=True)
class Cost:
    """What one sub-network costs.

    Attributes:
        skip: which one, such as `"TTFF"`.
        macs: multiply-adds of one sample (an image): those of the example, divided by its batch size.
        parameters: distinct parameters that it uses.
        latency_ms: median time of one forward pass of the whole example; None where it was not measured.
        latency_low_ms, latency_high_ms: a confidence interval of that median of at least 95 %, from order
            statistics; None where fewer than six rounds were run, which is too few for one.
    """

    skip: str
    macs: int
    parameters: int
    latency_ms: float | None = None
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None


@dataclass(frozen=True)
class Profile:
    """Cost of sub-networks on one device for one example input: a plain value that prints and survives JSON.

    Attributes:
        costs: by skip, in the order in which they were asked for.
        batch_size: of the example.
        device: `type` and `processor` that ran it, `platform`, `torch` (its version) and CPU `threads`.
        uncounted: operators that may do multiply-adds and that no formula counts, and how often at most a sub-network
            calls each. The multiply-adds are complete where it is empty; otherwise give those operators a formula
            with `torch.utils.flop_counter.register_flop_formula`.
    """

    costs: dict[str, Cost]
    batch_size: int
    device: dict[str, Any]
    uncounted: dict[str, int]

    def __str__(self) -> str:
        divisor, unit = macs_unit(max((cost.macs for cost in self.costs.values()), default=0))
        at = self.device.get
        lines = [
            f"{at('processor')} ({at('type')}), {at('threads')} CPU thread{'s' * (at('threads') != 1)}, "
            f"torch {at('torch')}, batch of {self.batch_size}",
            f"{'skip':<8} {unit + ' a sample':>15} {'parameters':>13} {'latency ms':>11}   95 % interval of the median",
        ]
        for cost in self.costs.values():
            latency = "-" if cost.latency_ms is None else f"{cost.latency_ms:.2f}"
            low, high = cost.latency_low_ms, cost.latency_high_ms
            interval = "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"
            macs = f"{cost.macs / divisor:.3f}"
            lines.append(f"{cost.skip:<8} {macs:>15} {cost.parameters:>13,} {latency:>11}   {interval}")
        if self.uncounted:
            calls = ", ".join(f"{name} ({count} calls)" for name, count in self.uncounted.items())
            lines.append(f"multiply-adds NOT counted, no formula: {calls}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only, as `from_json` reads them."""
        return {**asdict(self), "costs": [asdict(cost) for cost in self.costs.values()]}

    @classmethod
    def from_json(cls, profile: Mapping[str, Any]) -> "Profile":
        """The inverse of `to_json`.

        Raises:
            MeasurementError: a field that no profile has, or one that is missing.
        """
        try:
            costs = [Cost(**cost) for cost in profile["costs"]]
            return cls(**{**profile, "costs": {cost.skip: cost for cost in costs}})
        except (KeyError, TypeError) as error:
            raise MeasurementError(
                f"profile {profile!r}: {error!r}; expected an object with {', '.join(cls.__dataclass_fields__)}, "
                f"and in costs a list of objects with {', '.join(Cost.__dataclass_fields__)}"
            ) from error


def macs_unit(largest: float) -> tuple[float, str]:
    """The divisor and the name of the unit in which multiply-adds up to `largest` read well.

    Example:
        >>> macs_unit(4.11e9)
        (1000000000.0, 'GMACs')
    """
    units = ((1e9, "GMACs"), (1e6, "MMACs"))
    return next((unit for unit in units if largest >= unit[0] / 10), (1e3, "kMACs"))
