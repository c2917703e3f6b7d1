"""What sub-networks cost: plain values, which need no torch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Any

from ..errors import MeasurementError
from ..schema import Count, Letters, NotNegative, Plain, Positive, Size, from_plain, to_plain
from ..text import figures, left_out_lines, or_dash, table

_UNSTEADY = 0.25  # of the median: on a quiet machine an interval is 1 to 5 % of it wide


@dataclass(frozen=True)
class CostKind:
    """The wording for one kind of cost, wherever it is shown or limited.

    Attributes:
        word: within a sentence.
        unit: in which it is measured; empty for counts.
        least: what the sub-network with the least of it is called.
        how: to measure it, if a table may be without it.
    """

    word: str
    unit: str
    least: str
    how: str = ""


COSTS = {
    "latency_ms": CostKind("latency", "ms", "the fastest", "profile without latency=False (--no-latency)"),
    "token_ms": CostKind("time per token", "ms/token", "the one that writes fastest", "profile_generation"),
    "first_token_ms": CostKind("time to first token", "ms", "the one that answers first", "profile_generation"),
    "macs": CostKind("multiply-adds", "", "the one with the fewest multiply-adds"),
    "energy_mj": CostKind(
        "energy",
        "mJ",
        "the one with the least energy",
        "profile on a device with energy counters (the profile says why there are none)",
    ),
    "memory_mb": CostKind(
        "memory",
        "MB",
        "the one with the least memory",
        "profile without latency=False (--no-latency), on a CPU or a CUDA device",
    ),
    "parameters": CostKind("parameters", "", "the smallest"),
    "cache_kb": CostKind("cache per token", "kB/token", "the one with the smallest cache", "profile_generation"),
}
TIMED = ("latency_ms", "token_ms")  # what `Cost.times_ms` may hold
OF_TEXT = ("first_token_ms", "token_ms", "cache_kb")  # of generated text, measured by `profile_generation`
LATER = (*OF_TEXT, "throughput")  # fields of a row that older versions do not know


@dataclass(frozen=True)
class Cost(Plain):
    """What one sub-network costs.

    Attributes:
        skip: which one, such as `"TTFF"`.
        macs: multiply-adds of one sample (an image): those of the example, divided by its batch size.
        parameters: distinct parameters that it uses.
        latency_ms: median time of one forward pass of the whole example; None if not measured.
        latency_low_ms, latency_high_ms: a confidence interval of at least 95 % for that median, from order
            statistics; None for fewer than six rounds, which are too few for one.
        memory_mb: peak memory (10^6 bytes) of one pass of the whole example: parameters and buffers that this
            sub-network uses, input, and what torch allocates during the pass; None if not measured. A network with
            all depths always keeps the super-net's weights, whatever runs.
        energy_mj: millijoules that the device draws in one pass of the whole example; None if not measured.
        throughput: samples per second by batch size, from the median time of a pass.
        times_ms: every timed pass; the k-th of all sub-networks belong to the same round. For generated text, the
            median step of each round.
        first_token_ms: median time from a prompt to its first new token (prefill); None if not measured.
        token_ms: median time per further token with a cache (a step of decoding), for the whole batch.
        cache_kb: kB (10^3 bytes) of keys, values or other state in the cache per token of a text, at the measured
            length: all bytes over all tokens. A cache of fixed size (the state of Mamba, a sliding window) has less per
            token the longer the text.
    """

    skip: Letters
    macs: Count
    parameters: Count
    latency_ms: Positive | None = None
    latency_low_ms: Positive | None = None
    latency_high_ms: Positive | None = None
    memory_mb: NotNegative | None = None
    energy_mj: NotNegative | None = None
    throughput: dict[Size, Positive] = field(default_factory=dict)
    times_ms: tuple[Positive, ...] = ()
    first_token_ms: Positive | None = None
    token_ms: Positive | None = None
    cache_kb: NotNegative | None = None

    def __post_init__(self) -> None:
        # JSON has no tuples, and its keys are strings.
        object.__setattr__(self, "times_ms", tuple(self.times_ms))
        object.__setattr__(self, "throughput", {int(batch): rate for batch, rate in self.throughput.items()})
        known = [each for each in (self.latency_low_ms, self.latency_ms, self.latency_high_ms) if each is not None]
        if known != sorted(known):
            raise MeasurementError(
                f"latency of {self.skip!r} is {self.latency_ms} ms, but its interval from {self.latency_low_ms} to "
                f"{self.latency_high_ms}: expected a median within its interval"
            )


@dataclass(frozen=True)
class Saving:
    """What skipping one stage saves with all others unchanged: the median over rounds of the mean over depths.

    Attributes:
        stage: counted from 1.
        macs: multiply-adds of one sample.
        ms: time of one pass; low_ms and high_ms are a confidence interval of at least 95 %.
    """

    stage: int
    macs: float
    ms: float
    low_ms: float
    high_ms: float

    @property
    def is_measurable(self) -> bool:
        """Whether skipping the stage saves time beyond the noise."""
        return self.low_ms > 0


@dataclass(frozen=True)
class Profile(Plain):
    """Cost of sub-networks on one device for one example input: a plain value that prints and survives JSON.

    So it can be measured on a device and moved elsewhere: `json.dumps(profile.to_json())`.

    Attributes:
        costs: by skip, in the order requested.
        batch_size: of the example.
        device: `type` and `processor` that ran it, `platform`, `torch` (its version) and CPU `threads`.
        uncounted: operators that may do multiply-adds but have no formula, and the most calls of each in a
            sub-network. If empty, the multiply-adds are complete; otherwise register a formula for those operators
            with `torch.utils.flop_counter.register_flop_formula`.
        backend: what ran the sub-networks: `eager` or `compiled`.
        network: the network's `fingerprint`; empty if unknown.
        conditions: rounds, warm-up, clock and load before and after, and the drift: how much longer, in percent,
            rounds took in the second half.
        energy: what measured the energy, or why it was not measured.
        inputs: the shapes of the example's tensors.
        prompt_tokens: the length of the prompt for generated text; None otherwise.
        left_out: the depths that cannot be used on their own, and why.
        suppressions: the most times that a sub-network suppresses overlapping boxes: post-processing that takes time
            but does no multiply-adds.
        macs_on_boxes: the part of a sample's multiply-adds that runs on the boxes left by a suppression, by skip. It
            depends on what is in the image. Empty for networks without suppression.
    """

    reading_error = MeasurementError

    costs: dict[Letters, Cost]
    batch_size: Size
    device: dict[str, Any]
    uncounted: dict[str, Count]
    backend: str = "eager"
    network: str = ""
    # Clock and load differ between measurements even if the costs are equal.
    conditions: dict[str, Any] = field(default_factory=dict, compare=False)
    energy: str = "not measured"
    inputs: tuple[tuple[Count, ...], ...] = ()
    prompt_tokens: Size | None = None
    left_out: dict[Letters, str] = field(default_factory=dict)
    suppressions: Count = 0
    macs_on_boxes: dict[Letters, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(tuple(shape) for shape in self.inputs))
        costs = self.costs.values()
        if [*self.costs] != [cost.skip for cost in costs] or len({len(skip) for skip in self.costs}) > 1:
            raise MeasurementError(
                f"costs of {', '.join(cost.skip for cost in costs)} under {', '.join(self.costs)}: expected each under "
                "its own skip, all with the same number of stages"
            )
        if len({len(cost.times_ms) for cost in costs}) > 1:
            raise MeasurementError(
                f"passes were timed {', '.join(str(len(cost.times_ms)) for cost in costs)} times: expected the "
                "same number of rounds for every sub-network"
            )

    # -- what the times say -------------------------------------------------------------------------------------

    def ties(self) -> tuple[tuple[str, str], ...]:
        """Pairs of sub-networks whose latencies (or times per token) are statistically indistinguishable.

        For these, the 95 % interval of the median difference within a round contains 0. Empty for fewer than six
        rounds.
        """
        pairs = combinations(self.costs.values(), 2)
        return tuple((a.skip, b.skip) for a, b in pairs if _holds_zero(_differences(a, b)))

    def savings(self) -> tuple[Saving, ...]:
        """What skipping each stage saves; omits stages that are not the only difference of any measured pair."""
        stages = range(len(next(iter(self.costs), "")))
        return tuple(saving for stage in stages if (saving := self._saving(stage)) is not None)

    def _saving(self, stage: int) -> Saving | None:
        pairs = [
            (cost, self.costs[skipped])
            for skip, cost in self.costs.items()
            if skip[stage] == "F" and (skipped := f"{skip[:stage]}T{skip[stage + 1 :]}") in self.costs
        ]
        # Differences within a round: a temporary slowdown of the machine affects both of a pair.
        rounds = [sum(passes) / len(passes) for passes in zip(*(_differences(*pair) for pair in pairs), strict=True)]
        low, high = median_interval(rounds)
        if low is None or high is None:
            return None
        return Saving(stage + 1, sum(a.macs - b.macs for a, b in pairs) / len(pairs), median(rounds), low, high)

    def time_per_work(self) -> float | None:
        """The share of latency that the base-net saves, over the share of multiply-adds that it saves (1 is ideal).

        None where super-net and base-net were not both timed. The paper reports 0.92 for ResNet-50 on a Jetson Orin
        Nano at batch 1 (35 % of the latency for 38 % of the work).
        """
        if (shares := self._base_shares()) is None:
            return None
        work, time = shares
        return (1 - time) / (1 - work)

    def _base_shares(self) -> tuple[float, float] | None:
        """The base-net's multiply-adds and latency as shares of the super-net's.

        None where they were not both timed, or need equally many multiply-adds.
        """
        full, base = (self.costs.get(flag * len(next(iter(self.costs), ""))) for flag in "FT")
        if full is None or base is None or not full.latency_ms or base.latency_ms is None or full.macs == base.macs:
            return None
        return base.macs / full.macs, base.latency_ms / full.latency_ms

    # -- as text ------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        timed = self._has("latency_ms")
        return "\n".join([*self._head(), *self.notes(), *[f"Energy: {self.energy}."] * timed])

    def _has(self, name: str) -> bool:
        return any(getattr(cost, name) is not None for cost in self.costs.values())

    @property
    def _timed(self) -> str | None:
        """The name of the cost in `times_ms`; None if nothing was timed."""
        return next((name for name in TIMED if self._has(name)), None)

    def notes(self) -> tuple[str, ...]:
        """What the figures do not show, one sentence each: what was left out or not counted, how time was measured,
        which sub-networks are indistinguishable, which stage's skip saves no time."""
        return tuple(self._notes())

    def _head(self) -> Iterator[str]:
        at = self.device.get
        threads = f"{at('threads')} CPU thread{'s' * (at('threads') != 1)}"
        backend = "" if self.backend == "eager" else f", {self.backend}"
        prompt = "" if self.prompt_tokens is None else f", prompt of {self.prompt_tokens} tokens"
        batch = f"batch of {self.batch_size}{prompt}"
        yield f"{at('processor')} ({at('type')}), {threads}, torch {at('torch')}{backend}, {batch}"
        yield from table(self._columns())

    def _columns(self) -> Iterator[tuple[str, str, list[str]]]:
        costs = list(self.costs.values())
        divisor, unit = macs_unit(max((cost.macs for cost in costs), default=0))
        yield "skip", "<6", [cost.skip for cost in costs]
        yield f"{unit} a sample", ">6", figures([cost.macs / divisor for cost in costs], 3)
        yield "parameters", ">6", [f"{cost.parameters:,}" for cost in costs]
        text = text_columns(costs, self.batch_size, self.prompt_tokens)
        if self._has("latency_ms") or not text:
            yield "latency ms", ">6", figures([cost.latency_ms for cost in costs])
        intervals = [self.interval(cost.skip) for cost in costs]
        told = ["-" if None in both else "{:.2f} to {:.2f}".format(*both) for both in intervals]
        for title, form, cells in text:
            yield title, form, cells
            if title == "ms/token":
                yield "95 % interval", ">6", told
        if self._timed != "token_ms":
            yield "95 % interval", ">6", told
        for title, name in (("memory MB", "memory_mb"), ("energy mJ", "energy_mj")):
            if self._has(name):
                yield title, ">6", figures([getattr(cost, name) for cost in costs])
        batches = dict.fromkeys(batch for cost in costs for batch in cost.throughput)
        for batch in batches if len(batches) > 1 else ():  # a single one is redundant with latency
            yield f"samples/s, batch {batch}", ">6", [or_dash(cost.throughput.get(batch), 1) for cost in costs]

    def _notes(self) -> Iterator[str]:
        yield from left_out_lines(self.left_out)
        if self.uncounted:
            calls = ", ".join(f"{name} ({count} calls)" for name, count in self.uncounted.items())
            yield f"multiply-adds NOT counted, no formula: {calls}"
        if self.suppressions:
            yield self._post_processing()
        if self._timed:
            if "rounds" in self.conditions:
                yield _in_words(self.conditions)
            yield from self._timing_notes(COSTS[self._timed].word)
        if self.conditions.get("cache_grows") is False:
            yield (
                "The cache does not grow with every token (windows, or a state of fixed size): its size per token is "
                f"for {self.conditions.get('cache_tokens')} tokens and shrinks for longer texts."
            )

    def _post_processing(self) -> str:
        shares = [f"{100 * share:.0f} %" for share in self._shares_on_boxes()]
        on_boxes = (
            f"{' to '.join(dict.fromkeys(shares))} of the multiply-adds run on the remaining boxes, and "
            if shares
            else ""
        )
        return (
            f"Post-processing: overlapping boxes are suppressed {self.suppressions} times, without multiply-adds; "
            f"{on_boxes}how long that takes depends on what is in the images."
        )

    def _shares_on_boxes(self) -> list[float]:
        """The smallest and largest share of a sub-network's multiply-adds that run on boxes; empty if none do."""
        shares = [
            number / (self.costs[skip].macs or 1) for skip, number in self.macs_on_boxes.items() if skip in self.costs
        ]
        return [min(shares), max(shares)] if any(shares) else []

    def _timing_notes(self, timed: str) -> Iterator[str]:
        if (width := self._spread()) > _UNSTEADY:
            yield (
                f"The machine was not steady: intervals span {100 * width:.0f} % of the median. Measure again when it "
                "is idle, with fewer threads, or for longer."
            )
        ties = {frozenset(pair) for pair in self.ties()}
        groups = self._groups(ties)
        for group in groups:
            yield f"Statistically indistinguishable in {timed}: {', '.join(group)}."
        if further := len(ties) - sum(len(group) * (len(group) - 1) // 2 for group in groups):
            yield f"Other indistinguishable pairs: {further} (ties() lists all)."
        for saving in self.savings():
            if not saving.is_measurable:
                yield (
                    f"Skipping stage {saving.stage} saves no time beyond noise here: {saving.ms:.2f} ms "
                    f"({saving.low_ms:.2f} to {saving.high_ms:.2f})."
                )
        ends = frozenset(flag * len(next(iter(self.costs), "")) for flag in "FT")
        # A ratio of two times that may be equal is noise.
        if (shares := self._base_shares()) is not None and ends not in ties:
            work, time = (100 * share for share in shares)
            yield f"The base-net needs {work:.0f} % of the super-net's multiply-adds and {time:.0f} % of its time."

    def _spread(self) -> float:
        """Width of the intervals relative to the median, for the middle sub-network; 0 without intervals."""
        name = self._timed or "latency_ms"
        low_high = [(*self.interval(cost.skip), getattr(cost, name)) for cost in self.costs.values()]
        widths = [(high - low) / middle for low, high, middle in low_high if low and high and middle]
        return median(widths) if widths else 0.0

    def interval(self, skip: str) -> tuple[float | None, float | None]:
        """A confidence interval of at least 95 % for a sub-network's median latency, or its median time per token."""
        cost = self.costs[skip]
        if self._timed == "token_ms":
            return median_interval(cost.times_ms)
        return cost.latency_low_ms, cost.latency_high_ms

    def _groups(self, ties: Collection[frozenset[str]]) -> list[list[str]]:
        """Groups of sub-networks that all tie with each other, by increasing time."""
        groups: list[list[str]] = []
        for cost in sorted(self.costs.values(), key=lambda cost: getattr(cost, self._timed or "latency_ms") or 0.0):
            # With all of them, not only with the last: ties are not transitive.
            if groups and all(frozenset((other, cost.skip)) in ties for other in groups[-1]):
                groups[-1].append(cost.skip)
            else:
                groups.append([cost.skip])
        return [group for group in groups if len(group) > 1]

    # -- as JSON ------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only, as `from_json` reads them."""
        plain = to_plain(self) | {"costs": [without_later(to_plain(cost)) for cost in self.costs.values()]}
        return without_later(plain)

    @classmethod
    def from_json(cls, content: Any) -> "Profile":
        """The inverse of `to_json`.

        Raises:
            MeasurementError: an unknown or missing field, or one of the wrong type.
        """
        listed = content.get("costs") if isinstance(content, Mapping) else None
        if isinstance(listed, list):  # files store a list, each entry with its skip
            costs = from_plain(tuple[Cost, ...], listed, MeasurementError, "profile's costs")
            if len({cost.skip for cost in costs}) < len(costs):
                raise MeasurementError(
                    f"a profile has the costs of {', '.join(cost.skip for cost in costs)}: expected each skip once"
                )
            content = {**content, "costs": {cost.skip: plain for cost, plain in zip(costs, listed, strict=True)}}
        profile = super().from_json(content)
        if not profile.costs:
            raise MeasurementError("a profile without costs: expected those of at least one sub-network")
        return profile


def tokens_a_second(cost: Any, batch_size: int, prompt_tokens: int | None) -> dict[str, float]:
    """Times of generated text as rates of the whole batch: of the prompt, if its length is known, and of new tokens.

    Arguments:
        cost: a `Cost` or a `Row`; what it lacks is left out.

    Example:
        >>> tokens_a_second(Cost("F", 400, 9, first_token_ms=50.0, token_ms=10.0), 1, 100)
        {'prompt': 2000.0, 'new': 100.0}
    """
    times = {"prompt": (cost.first_token_ms, prompt_tokens), "new": (cost.token_ms, 1)}
    return {name: 1000 * batch_size * tokens / ms for name, (ms, tokens) in times.items() if ms and tokens}


def text_columns(costs: Sequence[Any], batch_size: int, prompt_tokens: int | None) -> list[tuple[str, str, list[str]]]:
    """Table columns for measurements of generated text: title, alignment and minimum width, cells."""
    rates = [tokens_a_second(cost, batch_size, prompt_tokens) for cost in costs]
    found = []
    for title, form, values in (
        ("first token ms", ">6", [cost.first_token_ms for cost in costs]),
        ("prompt tokens/s", ">6", [rate.get("prompt") for rate in rates]),
        ("ms/token", ">6", [cost.token_ms for cost in costs]),
        ("tokens/s", ">6", [rate.get("new") for rate in rates]),
        ("cache kB/token", ">6", [cost.cache_kb for cost in costs]),
    ):
        if any(value is not None for value in values):
            found.append((title, form, figures(values, 1 if title.endswith("tokens/s") else 2)))
    return found


def without_later(plain: dict[str, Any]) -> dict[str, Any]:
    """Without empty fields that older versions do not know."""
    named = (*LATER, "prompt_tokens", "left_out")
    return {name: value for name, value in plain.items() if value not in (None, {}) or name not in named}


def macs_unit(largest: float) -> tuple[float, str]:
    """The divisor and the name of the unit in which multiply-adds up to `largest` read well.

    Example:
        >>> macs_unit(4.11e9)
        (1000000000.0, 'GMACs')
    """
    units = ((1e9, "GMACs"), (1e6, "MMACs"))
    # A tenth of a unit is enough: three decimals still show three digits.
    return next((unit for unit in units if largest >= unit[0] / 10), (1e3, "kMACs"))


def median_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The narrowest pair of order statistics that covers the median with at least 95 % probability.

    Of n values, the k-th smallest lies above the true median with the probability that fewer than k of n fair
    coins show heads, and likewise the k-th largest below it. (None, None) for fewer than six.

    Example:
        >>> median_interval([3, 1, 2, 6, 5, 4])
        (1, 6)
    """
    n, k = len(values), 0
    term = tail = 1  # coins with k heads, with at most k heads, of 2^n
    # Both tails together hold at most 5 %; in integers, because 2^n overflows a float after many rounds.
    while 2 * tail * 20 <= 2**n:
        k += 1
        term = term * (n - k + 1) // k
        tail += term
    ranked = sorted(values)
    return (ranked[k - 1], ranked[n - k]) if k else (None, None)


def _differences(a: Cost, b: Cost) -> list[float]:
    """How much longer a pass of `a` took in each round."""
    return [one - other for one, other in zip(a.times_ms, b.times_ms, strict=False)]


def _holds_zero(differences: Sequence[float]) -> bool:
    low, high = median_interval(differences)
    return low is not None and high is not None and low <= 0 <= high


def _in_words(conditions: Mapping[str, Any]) -> str:
    rounds, warmup, drift = (conditions.get(name) for name in ("rounds", "warmup_rounds", "drift_percent"))
    said = f"Timed in {rounds} rounds, after {warmup} of warm-up"
    if not isinstance(drift, int | float):
        return f"{said}."
    return f"{said}; they were {abs(drift):.1f} % {'longer' if drift > 0 else 'shorter'} in the second half."
