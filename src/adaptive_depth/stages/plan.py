"""The plan: where a model is cut into mandatory and skippable sub-paths (paper, section 3.1)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from ..errors import StagesError


@dataclass(frozen=True)
class Stage:
    """One residual stage, cut in two consecutive sub-paths.

    Attributes:
        mandatory: module paths of the blocks that always run, in order; the first may change the shape.
        skippable: module paths of the blocks that may be left out, in order; each keeps the shape of its input.
        norms: paths of the normalisation layers that exist twice (skip-aware norms). `None` stands for
            every normalisation layer inside the mandatory blocks; `adapt` fills it in.
        name: how the stage is called in tables; the common parent of its blocks by default.
        channel_dim: where the channels of the stage's output are, for the optional feature term of the
            distillation: 1 for `[batch, channels, height, width]`, -1 for `[batch, tokens, channels]`.

    Example:
        >>> Stage(mandatory=("layer1.0", "layer1.1"), skippable=("layer1.2",)).name
        'layer1'
    """

    mandatory: tuple[str, ...]
    skippable: tuple[str, ...]
    norms: tuple[str, ...] | None = None
    name: str = ""
    channel_dim: int = 1

    def __post_init__(self) -> None:
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
                    "model.named_modules() lists them"
                )
            object.__setattr__(self, field, tuple(paths))
        if not self.mandatory or not self.skippable:
            raise StagesError(
                f"stage with mandatory={self.mandatory!r} and skippable={self.skippable!r}: each sub-path needs "
                "at least one block; leave a stage out of the list if it cannot be cut"
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
                raise StagesError(f"stages hold {stage!r}: expected adaptive_depth.Stage(mandatory=..., skippable=...)")

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, index: Any) -> Any:
        return self.stages[index]

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __str__(self) -> str:
        lines = [f"{'stage':<16} {'mandatory':>9} {'skippable':>9} {'skip-aware norms':>17}"]
        for stage in self.stages:
            norms = "all mandatory" if stage.norms is None else str(len(stage.norms))
            lines.append(f"{stage.name:<16} {len(stage.mandatory):>9} {len(stage.skippable):>9} {norms:>17}")
        return "\n".join(lines)

    def to_json(self) -> list[dict[str, Any]]:
        """Lists and strings only, as `from_json` reads them."""
        return [asdict(stage) for stage in self.stages]

    @classmethod
    def from_json(cls, stages: Iterable[Mapping[str, Any]]) -> "Stages":
        """The inverse of `to_json`.

        Raises:
            StagesError: a field that no stage has, or one that is missing.
        """
        try:
            return cls(tuple(Stage(**stage) for stage in stages))
        except TypeError as error:
            raise StagesError(
                f"stages {stages!r}: {error}; expected objects with {', '.join(Stage.__dataclass_fields__)}"
            ) from error


def cut(blocks: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paper's default cut of L blocks: ``m = min(L - 1, ceil(L / 2))`` are mandatory, the rest skippable.

    Example:
        >>> cut(["a", "b", "c"])
        (('a', 'b'), ('c',))
    """
    mandatory = min(len(blocks) - 1, ceil(len(blocks) / 2))
    return tuple(blocks[:mandatory]), tuple(blocks[mandatory:])
