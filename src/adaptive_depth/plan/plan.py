"""The plan: how a model is split into mandatory and skippable sub-paths (paper, section 3.1)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, isfinite
from numbers import Real
from typing import Any

from ..errors import StagesError
from ..schema import Plain, from_plain, to_plain


@dataclass(frozen=True)
class Stage(Plain):
    """One residual stage, split into two consecutive sub-paths.

    Attributes:
        mandatory: module paths of the blocks that always run, in order; the first may change the shape.
        skippable: module paths of the blocks that may be skipped, in order; each keeps the shape of its input.
        norms: paths of the normalisation layers that exist twice (skip-aware norms). `None` means every normalisation
            layer inside the mandatory blocks; `adapt` fills it in.
        name: the stage's name in tables; by default the common parent of its blocks.
        channel_dim: the dimension of the channels in the stage's output, for the optional feature term of the
            distillation: 1 for `[batch, channels, height, width]`, -1 for `[batch, tokens, channels]`.
        returns: None if the skippable blocks return a tensor. If they return a tuple, what a skipped block returns in
            each place of it: the input with this number, counted from 0 in the order of the block's signature, or None
            if the entry is None. The first entry must be 0, the tensor that the block adds to.
        residual: whether to check that the skippable blocks add to their input. False skips the check: you know that
            they can be skipped although they do not.

    Example:
        >>> Stage(mandatory=("layer1.0", "layer1.1"), skippable=("layer1.2",)).name
        'layer1'
    """

    mandatory: tuple[str, ...]
    skippable: tuple[str, ...]
    norms: tuple[str, ...] | None = None
    name: str = ""
    channel_dim: int = 1
    returns: tuple[int | None, ...] | None = None
    residual: bool = True

    def __post_init__(self) -> None:
        if self.returns is not None:
            places = tuple(self.returns) if isinstance(self.returns, Sequence) else ()
            if places[:1] != (0,) or not all(place is None or isinstance(place, int) for place in places):
                raise StagesError(
                    f"returns={self.returns!r} of a stage: expected None, or the numbers of the inputs that are "
                    "returned, such as (0, None) or (0, 1)"
                )
            object.__setattr__(self, "returns", places)
        for field in ("mandatory", "skippable", "norms"):
            paths = getattr(self, field)
            if paths is None and field == "norms":
                continue
            if isinstance(paths, str) or not isinstance(paths, Sequence):
                raise StagesError(
                    f"{field}={paths!r} of a stage: expected a sequence of module paths, such as ('layer1.0',)"
                )
            wrong = next((path for path in paths if not isinstance(path, str)), None)
            if wrong is not None:
                raise StagesError(
                    f"{field} of a stage holds a {type(wrong).__name__}: expected module paths, such as 'layer1.0', as "
                    "listed by model.named_modules()"
                )
            object.__setattr__(self, field, tuple(paths))
        if not self.mandatory or not self.skippable:
            raise StagesError(
                f"stage with mandatory={self.mandatory!r} and skippable={self.skippable!r}: each sub-path needs "
                "at least one block; leave a stage out of the list if it cannot be split"
            )
        if not self.name:
            object.__setattr__(self, "name", self.blocks[0].rpartition(".")[0] or self.blocks[0])

    @property
    def blocks(self) -> tuple[str, ...]:
        """The module paths of all blocks, in the order in which they run."""
        return self.mandatory + self.skippable


@dataclass(frozen=True)
class Stages(Sequence[Stage]):
    """The stages of a network in the order in which they run: a plain value that prints and survives JSON."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.stages, Iterable):
            raise StagesError(f"stages are a {type(self.stages).__name__}: expected a list, [Stage(...), ...]")
        object.__setattr__(self, "stages", tuple(self.stages))
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise StagesError(
                    f"stages hold a {type(stage).__name__}: expected adaptive_depth.Stage(mandatory=..., "
                    "skippable=...); an input is passed as example="
                )

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, index: Any) -> Any:
        return self.stages[index]

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __str__(self) -> str:
        width = max(16, *(len(stage.name) for stage in self.stages), 0)
        lines = [f"{'stage':<{width}} {'mandatory':>9} {'skippable':>9} {'skip-aware norms':>17}"]
        for stage in self.stages:
            norms = "all mandatory" if stage.norms is None else str(len(stage.norms))
            lines.append(f"{stage.name:<{width}} {len(stage.mandatory):>9} {len(stage.skippable):>9} {norms:>17}")
        return "\n".join(lines)

    def to_json(self) -> list[dict[str, Any]]:
        """Lists and strings only, as `from_json` reads them; `residual` only if it is not the default."""
        stages = to_plain(self.stages)
        # Left out if possible, because older versions do not know the field.
        return [{name: value for name, value in stage.items() if name != "residual" or not value} for stage in stages]

    @classmethod
    def from_json(cls, stages: Any) -> "Stages":
        """The inverse of `to_json`.

        Raises:
            StagesError: a field that is unknown, missing or of another type.
        """
        return cls(from_plain(tuple[Stage, ...], stages, StagesError, "stages"))


@dataclass(frozen=True)
class Run:
    """Residual blocks that run one after the other: a stage before it is split.

    Attributes:
        blocks: module paths in the order in which they run; the first may change the shape.
        norms: returns the norms to double for given mandatory blocks; by default all norms inside these.
        name: as for `Stage`.
        channel_dim: as for `Stage`.
        flat: a transformer's only run, to be divided into groups.
        returns: as for `Stage`.
    """

    blocks: tuple[str, ...]
    norms: "NormsOf | None" = None
    name: str = ""
    channel_dim: int = 1
    flat: bool = False
    returns: tuple[int | None, ...] | None = None


NormsOf = Callable[[Sequence[str]], Sequence[str]]  # from the mandatory blocks to the norms to double


def protect_last(runs: Sequence[Run]) -> list[Run]:
    """The runs of a language model without its last layers, which must always run.

    In SmolLM2-135M, 30 layers, skipping one of the last two costs 0.9 and 2.8 nats, one of most others 0.1 to 0.3
    (`benchmarks/language/smollm2.py`): one layer in sixteen is protected, at least one.
    """
    protected = []
    for run in runs:
        last = max(1, round(len(run.blocks) / 16))
        protected.append(replace(run, blocks=run.blocks[: len(run.blocks) - last]))
    return protected


Mandatory = int | float | Sequence[int | float | None] | None  # where to split: for all stages, or for each


def cut(blocks: Sequence[str], mandatory: float | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split L blocks into a mandatory and a skippable sub-path.

    Arguments:
        blocks: module paths, two or more.
        mandatory: how many are mandatory: a number of blocks from 1 to L - 1, or a fraction of them, such as 0.5, which
            is rounded to at least one block and leaves at least one; by default the paper's
            ``min(L - 1, ceil(L / 2))``.

    Raises:
        StagesError: a number that leaves no skippable or no mandatory block.

    Example:
        >>> cut(["a", "b", "c"])
        (('a', 'b'), ('c',))
        >>> cut(["a", "b", "c", "d"], mandatory=0.25)
        (('a',), ('b', 'c', 'd'))
    """
    length = len(blocks)
    if mandatory is None:
        number = min(length - 1, ceil(length / 2))
    # True would pass as one block.
    elif isinstance(mandatory, bool) or not (isinstance(mandatory, Real) and isfinite(mandatory)):
        raise StagesError(f"mandatory={mandatory!r}: expected a number of blocks, or a fraction such as 0.5")
    elif 0 < mandatory < 1:
        number = min(length - 1, max(1, round(mandatory * length)))
    # 1.0 means one block: all of them would leave none to skip.
    elif mandatory == int(mandatory) and 1 <= mandatory < length:
        number = int(mandatory)
    else:
        raise StagesError(
            f"mandatory={mandatory!r} of the {length} blocks {blocks[0]} to {blocks[-1]}: expected 1 to "
            f"{length - 1} blocks, or a fraction between 0 and 1, such as 0.5"
        )
    return tuple(blocks[:number]), tuple(blocks[number:])


def cut_runs(runs: Sequence[Run], mandatory: Mandatory = None, group_size: int | None = None) -> Stages:
    """Stages from runs: a flat one is first divided into groups, then each is split.

    Arguments:
        runs: in the order in which they run; those of a single block are left out, as there is nothing to skip.
        mandatory: as for `cut`, for all stages or as a sequence with one entry for each.
        group_size: blocks in each group of a flat run; by default four groups, or fewer so that each has two blocks, of
            sizes that differ by at most one.

    Raises:
        StagesError: a group size that does not divide a flat run, or without a flat run to divide; `mandatory` with
            another length than the number of stages.
    """
    if group_size is not None and not any(run.flat for run in runs):
        raise StagesError(f"group_size={group_size!r}: the model already has stages, so there is nothing to divide")
    groups = [group for run in runs for group in (_groups(run, group_size) if run.flat else [run])]
    groups = [group for group in groups if len(group.blocks) > 1]
    if not isinstance(mandatory, Sequence):
        wanted: list[Any] = [mandatory] * len(groups)
    else:
        wanted = list(mandatory)
    if len(wanted) != len(groups):
        lengths = ", ".join(str(len(group.blocks)) for group in groups)
        raise StagesError(
            f"mandatory={mandatory!r} has {len(wanted)} entries: expected one for each of {len(groups)} stages (of "
            f"{lengths} blocks)"
        )
    stages = []
    for group, number in zip(groups, wanted, strict=True):
        first, rest = cut(group.blocks, number)
        norms = None if group.norms is None else tuple(group.norms(first))
        stages.append(Stage(first, rest, norms, group.name, group.channel_dim, group.returns))
    return Stages(tuple(stages))


def _groups(run: Run, size: int | None) -> list[Run]:
    length = len(run.blocks)
    if size is not None and not (isinstance(size, int) and 2 <= size <= length and length % size == 0):
        fitting = [str(number) for number in range(2, length + 1) if length % number == 0]
        raise StagesError(
            f"group_size={size!r} does not divide {length} blocks into groups of two or more: expected "
            f"{' or '.join(fitting)}"
        )
    number = length // size if size else max(1, min(4, length // 2))
    ends = [round(index * length / number) for index in range(number + 1)]
    return [
        replace(run, blocks=run.blocks[start:end], name=f"{run.name or 'group'} {start}-{end - 1}", flat=False)
        for start, end in pairwise(ends)
    ]
