"""Which depth next: the governor's rule, without clock, lock or log, so that time is just another input."""

import math
from collections import deque
from collections.abc import Sequence

from ..choose.tradeoffs import Row

EVIDENCE = 4  # a deeper one must have fitted for this many inputs
SPACING = 0.5  # seconds from a climb to the next one that follows a drop
ROOM = 1.05  # a deeper one must have fitted, and a shallower one must fit, with this margin
SAVED = 3.0  # the most misses that can be saved up
PROBATION = 3  # a climb that misses within this many inputs has failed: the wait for the next one doubles
SUCCESS = 20  # one that survives this many has succeeded: the wait is reset
LONGEST_WAIT = 30.0  # seconds


class Policy:
    """Climbs and drops on a ladder of depths; `decide` before an input, `observe` after it.

    Two things decide. *What would have fitted*: each input shows how much slower than its profile the device was, and
    so which depths would have met the deadline. *What may be missed*: each input earns `1 - met` of a miss, each miss
    above the shallowest depth costs one. While a miss is left, one slow input in three is taken for a spike; when none
    is left, the first slow input makes the network shallower, and nothing deeper is tried. So whatever the device
    does, all depths but the shallowest together miss at most `(1 - met) * inputs + 1 + depths` deadlines.

    Arguments:
        ladder: the depths with their profiled latency, fastest and worst first.
        target_ms: from an input's arrival to its output; infinite without a deadline.
        met: the share of inputs that should meet it.
        hold_s: how long a deeper one must have fitted; doubled after each failed climb to it.
    """

    def __init__(self, ladder: Sequence[Row], target_ms: float, met: float, hold_s: float) -> None:
        self.latencies = [row.latency_ms or 0.0 for row in ladder]  # without latencies there is no deadline either
        self.target_ms = target_ms
        self.at: int | None = None
        self._earned, self._hold = 1 - met, hold_s
        self._left = 1.0  # starts with one, so that an early spike does not cause a drop
        self._recent: deque[float] = deque(maxlen=3)
        self._wait = [hold_s] * len(ladder)
        self._fitting = [0] * len(ladder)  # consecutive inputs for which each depth would have met the deadline
        self._since = [0.0] * len(ladder)  # and since when
        self._turned_at, self._climbing = -math.inf, False  # last climb after a drop; no drop since?
        self._on_probation: int | None = None  # inputs since the last climb, until it has succeeded or failed

    @property
    def slowdown(self) -> float:
        """The latency expected for the next input, as a multiple of the profiled one.

        One of the last three inputs is taken for a spike if a miss is affordable and no climb is on probation.
        """
        seen = sorted(self._recent) or [1.0]
        sure = self._left < 1 or (self._on_probation is not None and self._on_probation < PROBATION)
        return seen[-1] if sure or len(seen) == 1 else seen[-2]

    def meets(self, depth: int) -> bool | None:
        """Whether a depth meets the target while nothing waits; None until that has been certain for a while."""
        if self.latencies[depth] * self.slowdown > self.target_ms:
            return False
        return True if self._fitting[depth] >= SUCCESS else None

    def decide(self, at_s: float, room: float, allowed: Sequence[int]) -> str:
        """Choose a depth (it is `at` afterwards), and say why.

        Arguments:
            at_s: now, in seconds; never less than before.
            room: what is left of the target, in milliseconds of the table's input: waiting time is subtracted, and an
                input with twice the work has half the room.
            allowed: the depths that the limits allow, shallowest first; at least one.
        """
        if self.at is None:
            self.at = self._deepest(allowed, max(self._recent, default=1.0), room)
            return "start"
        if self.at not in allowed or (self.at > allowed[0] and self.latencies[self.at] * self.slowdown > room):
            return self._drop(allowed, room)
        for depth in reversed(allowed):
            if depth > self.at and self._may_climb(depth, at_s, room):
                self._turned_at = self._turned_at if self._climbing else at_s
                self.at, self._climbing, self._on_probation = depth, True, 0
                return "deeper"
        return "stay"

    def _drop(self, allowed: Sequence[int], room: float) -> str:
        assert self.at is not None
        lower = [depth for depth in allowed if depth < self.at] or allowed[:1]
        self.at, self._climbing = self._deepest(lower, max(self._recent, default=1.0) * ROOM, room), False
        self._on_probation = None
        return "shallower"

    def _deepest(self, allowed: Sequence[int], slowdown: float, room: float) -> int:
        fitting = [depth for depth in allowed if self.latencies[depth] * slowdown <= room]
        return fitting[-1] if fitting else allowed[0]

    def _may_climb(self, depth: int, at_s: float, room: float) -> bool:
        if not self._climbing and at_s - self._turned_at < SPACING:
            return False
        if self.target_ms == math.inf:
            return True
        return (
            self._left >= 1
            and self._fitting[depth] >= EVIDENCE
            and at_s - self._since[depth] >= self._wait[depth]
            # The last input alone decides here: nothing climbs during a spike, whatever came before.
            and self.latencies[depth] * self._recent[-1] * ROOM <= room
        )

    def observe(self, at_s: float, depth: int | None, slowdown: float, missed: bool, room: float) -> None:
        """Record how long one input took.

        Arguments:
            at_s: now, in seconds; never less than before.
            depth: what ran, by its place on the ladder; None if it is not on the ladder.
            slowdown: its latency as a multiple of its profile.
            missed: whether it ended after the target, including waiting.
            room: what it had been given, as in `decide`.
        """
        self._recent.append(slowdown)
        for place, latency in enumerate(self.latencies):
            if latency * slowdown > room / ROOM:
                self._fitting[place], self._since[place] = 0, at_s
            else:
                self._fitting[place] += 1
        if not missed:
            self._left = min(SAVED, self._left + self._earned)
        # At the shallowest depth, a miss was unavoidable.
        elif depth != 0:
            # The debt is bounded: otherwise a slow hour would prevent climbing for days.
            self._left = max(-len(self.latencies), self._left + self._earned - 1)
        # Inputs that started before the climb say nothing about it.
        if depth is not None and depth == self.at and self._on_probation is not None:
            self._try(depth, missed)

    def _try(self, depth: int, missed: bool) -> None:
        """One more input after a climb."""
        assert self._on_probation is not None
        if not missed:
            self._on_probation += 1
            if self._on_probation == SUCCESS:
                # If this depth works, so do all shallower ones.
                self._wait[: depth + 1] = [self._hold] * (depth + 1)
                self._on_probation = None
        elif self._on_probation < PROBATION:
            # Deeper ones are slower still.
            self._wait[depth:] = [min(LONGEST_WAIT, 2 * wait) for wait in self._wait[depth:]]
