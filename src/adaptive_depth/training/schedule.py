"""Which sub-network learns in which step, and on which batch: a plain value, known before anything is trained."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import TrainingError
from ..skip import Skip, all_skips, parse_skip

_LETTERS = {"S": "the super-net", "B": "the base-net", "R": "an intermediate sub-network"}


class Due(NamedTuple):
    """One pass of a schedule.

    Attributes:
        letter: `"S"`, `"B"` or `"R"`.
        batch: the number of the batch that it learns from, counted from 0 over the whole training.
        drawn: how many passes of this letter came before; determines the intermediate sub-network.
    """

    letter: str
    batch: int
    drawn: int


@dataclass(frozen=True)
class Schedule:
    """A round of passes, each with its own optimiser step.

    `S` trains the super-net on a new batch, `B` the base-net on the batch `delay` batches ago, `R` an intermediate
    sub-network on the one `2 * delay` batches ago. So no two passes use the same images at the same moment, and each
    batch is loaded and augmented once. Passes whose batch would be from before the start are left out.

    Attributes:
        pattern: one round. It begins with `S`; each `S` loads a batch.
        delay: in batches; None is 16, or less if an epoch is shorter than 33 batches.
        fresh: every pass takes a new batch instead of an earlier one, so nothing is kept. A loader of n batches then
            makes n steps, and each letter sees its share of the images.
        intermediate: the sub-networks that `R` draws from, each equally often; if None, all intermediate ones.
        teacher_share: the share of the loss of `B` and `R` that compares with the super-net's output, kept from when
            it saw the batch (as it was then; this costs no pass). The rest compares with the labels.
        teacher_start: batches after which the teacher has its share.
        seed: of the drawing; the same in all processes.

    Raises:
        TrainingError: a pattern without `S` or with nothing else, unknown letters, or numbers out of range.

    Example:
        >>> [f"{due.letter}{due.batch}" for batch in range(5) for due in Schedule("SBSBR", delay=1).due(batch)]
        ['S0', 'S1', 'B0', 'S2', 'B1', 'S3', 'B2', 'R1', 'S4', 'B3']
    """

    pattern: str = "SBSBR"
    delay: int | None = None
    fresh: bool = False
    intermediate: tuple[str, ...] | None = None
    teacher_share: float = 0.0
    teacher_start: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        said = f"pattern={self.pattern!r}"
        if not isinstance(self.pattern, str):
            raise TrainingError(f"{said}: expected text such as 'SBSBR'")
        unknown = sorted(set(self.pattern) - set(_LETTERS))
        if unknown:
            known = ", ".join(f"{letter} ({what})" for letter, what in _LETTERS.items())
            meant = f"; did you mean {self.pattern.upper()!r}?" if not set(self.pattern.upper()) - set(_LETTERS) else ""
            raise TrainingError(
                f"{said} has the unknown letter {unknown[0]!r}: expected {known}, such as 'SBSBR', or in a recipe "
                f"'algorithm 1'{meant}"
            )
        if "S" not in self.pattern:
            raise TrainingError(f"{said} has no S: the super-net would never learn; expected one such as 'SBSBR'")
        if self.pattern[0] != "S":
            raise TrainingError(f"{said} begins with {self.pattern[0]}: expected S first, because it loads the batch")
        if set(self.pattern) == {"S"}:
            raise TrainingError(
                f"{said} has only S, so no sub-network would learn to run without its skippable blocks: expected "
                "one such as 'SB' or 'SBSBR', or train the plain network"
            )
        for name, value in (("delay", 0 if self.delay is None else self.delay), ("teacher_start", self.teacher_start)):
            if not isinstance(value, int) or value < 0:
                raise TrainingError(f"{name}={value!r}: expected a whole number of batches, 0 or more")
        if self.intermediate is not None and "R" not in self.pattern:
            raise TrainingError(
                f"{said} has no R, the only pass that uses intermediate={self.intermediate!r}: add an R"
            )
        if self.fresh and (self.delay or self.teacher_share):
            raise TrainingError("fresh=True keeps no batch: leave delay and teacher_share out")
        if not 0 <= self.teacher_share <= 1:
            raise TrainingError(f"teacher_share={self.teacher_share!r}: expected a share from 0 (labels only) to 1")

    @property
    def ages(self) -> dict[str, int]:
        """How many batches ago each letter's batch was loaded."""
        delay = 0 if self.fresh else 16 if self.delay is None else self.delay
        return {"S": 0, "B": delay, "R": 2 * delay}

    @property
    def kept(self) -> int:
        """The number of batches kept at a time, including the newest."""
        ages = self.ages
        return 1 + max(ages[letter] for letter in self.pattern)

    def _chunks(self) -> list[str]:
        """The passes that follow each batch of a round."""
        return list(self.pattern) if self.fresh else [f"S{rest}" for rest in self.pattern.split("S")[1:]]

    def due(self, batch: int) -> Iterator[Due]:
        """The passes that follow the loading of a batch, in their order."""
        chunks, ages = self._chunks(), self.ages
        rounds, place = divmod(batch, len(chunks))
        for number, letter in enumerate(chunks[place]):
            if batch >= ages[letter]:
                before = rounds * self.pattern.count(letter)
                before += sum(chunk.count(letter) for chunk in chunks[:place]) + chunks[place][:number].count(letter)
                yield Due(letter, batch - ages[letter], before)

    def steps(self, batches: int) -> int:
        """Optimiser steps after this many batches."""
        chunks, ages = self._chunks(), self.ages
        total = 0
        for place, chunk in enumerate(chunks):
            for letter in chunk:
                # The first batch at this place that is old enough for the letter; then one per round.
                first = -(-max(0, ages[letter] - place) // len(chunks)) * len(chunks) + place
                total += max(0, -(-(batches - first) // len(chunks)))
        return total

    def skip_of(self, due: Due, skips: Sequence[str]) -> str:
        """The sub-network of a pass, out of a network's `skips`, super-net first."""
        if due.letter != "R":
            return skips[0] if due.letter == "S" else skips[-1]
        between = self.drawn_from(len(skips[0]))
        turn, place = divmod(due.drawn, len(between))
        # Each turn visits all of them in random order, so that even a short training misses none.
        return random.Random(f"{self.seed} {turn}").sample(between, len(between))[place]

    def drawn_from(self, stages: int) -> list[str]:
        """The sub-networks that `R` draws from, in a network of this many stages.

        Raises:
            TrainingError: a pattern with R, but no sub-networks to draw from.
            SkipError: one that does not fit the stages.
        """
        skips = all_skips(stages)
        if self.intermediate is not None:
            chosen = sorted({parse_skip(skip, stages) for skip in _listed(self.intermediate)})
            if not chosen:
                raise TrainingError("intermediate=() leaves R nothing to draw from: name sub-networks, or pass None")
            if ends := [skip for skip in chosen if skip in (skips[0], skips[-1])]:
                raise TrainingError(
                    f"intermediate has {ends[0]!r}, which S or B trains: expected intermediate sub-networks"
                )
            return chosen
        if "R" in self.pattern and len(skips) == 2:
            raise TrainingError(
                f"pattern={self.pattern!r} has an R, but a network of one stage has no intermediate sub-networks: "
                "expected 'SB'"
            )
        return list(skips[1:-1])


def _listed(skips: Sequence[Skip]) -> Sequence[Skip]:
    if isinstance(skips, str):
        raise TrainingError(f"intermediate={skips!r}: expected a tuple of sub-networks, such as ({skips!r},)")
    return skips
