"""What an analysis finds: plain values, which need no torch."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MeasurementError
from ..schema import Cosine, Count, Letters, NotNegative, Number, Plain, Size
from ..text import table

_WIDTH = 80  # characters per line


@dataclass(frozen=True)
class BlockAnalysis(Plain):
    """One residual block h + F(h) in the super-net; F(h) is its output minus its input.

    If a block ends in a ReLU or a norm, F is the change after it.

    Attributes:
        path: of the module.
        stage: its number, from 1.
        skippable: whether it belongs to the skippable sub-path.
        ratio: ‖F(h)‖₂ / ‖h‖₂, the mean over samples; None if the block changes the shape.
        alone: the same for the network trained without the method; None if none was given.
        predicted: F(h) · ∂L/∂h, the block's term of the first-order expansion; None for mandatory blocks.
        change: how the loss actually changes when the block is added after those before it, with the later ones of
            its sub-path still left out; None for mandatory blocks.
        cosine: between F(h) and -∂L/∂h, the mean over samples; None for mandatory blocks, or if either is 0.
    """

    path: str
    stage: Size
    skippable: bool
    ratio: NotNegative | None
    alone: NotNegative | None = None
    predicted: Number | None = None
    change: Number | None = None
    cosine: Cosine | None = None


@dataclass(frozen=True)
class StageAnalysis(Plain):
    """One stage and its skippable sub-path; losses are means over samples.

    Attributes:
        stage: its number, from 1.
        name: as in the plan.
        predicted: Σ F_j(h_j) · ∂L/∂h_j over the skippable blocks j: how much the sub-path changes the loss, to first
            order.
        change: how much it actually does: the super-net's loss minus that of the super-net without the sub-path but
            with the same norms. Negative if the sub-path helps.
        cosine: between F_j(h_j) and -∂L/∂h_j, the mean over samples and blocks; None if either is 0.
        skipping: the price of skipping: the loss of the sub-network that skips only this stage, with its own norms,
            minus that of the super-net.
        divergence: KL(h_super ‖ h_base) of the stage's features, the mean over samples and positions, in nats.
    """

    stage: Size
    name: str
    predicted: Number
    change: Number
    cosine: Cosine | None
    skipping: Number
    divergence: Number

    def __str__(self) -> str:
        return f"stage {self.stage} ({self.name})"


@dataclass(frozen=True)
class NormAnalysis(Plain):
    """The norms with running statistics of one stage in one sub-network, compared with what they see in these batches.

    Attributes:
        skip: the sub-network.
        stage: the stage whose flag the norms depend on, from 1; 0 for those before the first stage.
        path: of the worst norm.
        shift: for that norm, the mean over channels of |mean seen - running mean| / √(running variance + ε), in
            standard deviations.
        scale: for that norm, the mean over channels of |ln((variance seen + ε) / (running variance + ε))|.
        norms, channels: their numbers.
        initial: norms that never gathered statistics: mean 0, variance 1, no batch counted.
        dead: channels with a running variance below ε, so that the norm amplifies any input.
    """

    skip: Letters
    stage: Count
    path: str
    shift: NotNegative
    scale: NotNegative
    norms: Size
    channels: Size
    initial: Count = 0
    dead: Count = 0


@dataclass(frozen=True)
class Analysis(Plain):
    """The method's claims measured on one network (paper, section 3.3): prints well and survives JSON.

    Attributes:
        blocks: all blocks of the stages, in the order in which they run.
        stages: all stages, in that order.
        norms: for the super-net, the base-net and each sub-network that skips a single stage, the norms of each stage;
            empty if no norm has running statistics. Stages with the same inputs as in the super-net are not repeated.
        losses: the mean loss of the same sub-networks, by skip, super-net first and base-net last.
        images: the number of samples measured.
        classes: of the network's head; None if its labels are not class indices.
        seen: how many of them occurred in the labels.
        advice: the conclusions, in words.
        network: the network's `fingerprint`; empty if unknown.
    """

    reading_error = MeasurementError

    blocks: tuple[BlockAnalysis, ...]
    stages: tuple[StageAnalysis, ...]
    norms: tuple[NormAnalysis, ...]
    losses: dict[Letters, Number]
    images: Count
    classes: Size | None = None
    seen: Count | None = None
    advice: tuple[str, ...] = ()
    network: str = ""

    def __post_init__(self) -> None:
        for name in ("blocks", "stages", "norms", "advice"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not (self.blocks and self.stages and len(self.losses) > 1 and self.images > 0):
            raise MeasurementError(
                f"an analysis of {len(self.blocks)} blocks, {len(self.stages)} stages, {len(self.losses)} losses and "
                f"{self.images} images: expected some of each, and the losses of super-net and base-net"
            )

        skips = [*self.losses, *(row.skip for row in self.norms)]
        if len({len(skip) for skip in skips}) > 1:
            raise MeasurementError(
                f"an analysis names {', '.join(dict.fromkeys(skips))}: expected skips of the same length"
            )

    @property
    def super_loss(self) -> float:
        """The super-net's loss."""
        return next(iter(self.losses.values()))

    def __str__(self) -> str:
        parts = [_wrapped(f"Loss on {self.images} images: {_losses(self.losses)}")]
        parts += [_stage_lines(self.stages), _block_lines(self.blocks)]
        parts += [_norm_lines(self.norms)] * bool(self.norms)
        parts += [[line for said in self.advice for line in _wrapped(said, "- ")]] * bool(self.advice)
        return "\n\n".join("\n".join(lines) for lines in parts)


# -- tables -----------------------------------------------------------------------------------------------------


def _losses(losses: Mapping[str, float]) -> str:
    names = dict.fromkeys(losses, "") | {next(iter(losses)): " (super-net)", list(losses)[-1]: " (base-net)"}
    return ", ".join(f"{skip} {loss:.4g}{names[skip]}" for skip, loss in losses.items())


def _stage_lines(stages: Sequence[StageAnalysis]) -> list[str]:
    columns = _columns(
        stages, predicted="predicted", change="change", cosine="cosine", skipping="skipping", KL="divergence"
    )
    return [
        *table([("stage", "<12", [f"{row.stage} {row.name}" for row in stages]), *columns]),
        *_wrapped(
            "predicted, change: of the loss by the skippable sub-path, to first order and measured, with the norms of "
            "the super-net; cosine: of F and -∂L/∂h; skipping: the loss when this stage alone is skipped, with the "
            "norms of that depth, minus the super-net's; KL: of h_super and h_base, in nats"
        ),
    ]


def _block_lines(blocks: Sequence[BlockAnalysis]) -> list[str]:
    compared = {"alone": "alone"} if any(block.alone is not None for block in blocks) else {}
    kinds = ["skippable" if block.skippable else "mandatory" for block in blocks]
    columns = _columns(
        blocks, **{"‖F‖/‖h‖": "ratio"}, **compared, predicted="predicted", change="change", cosine="cosine"
    )
    return table([("block", "<12", [_end(row.path) for row in blocks]), ("sub-path", "<9", kinds), *columns])


def _norm_lines(norms: Sequence[NormAnalysis]) -> list[str]:
    worst: dict[str, NormAnalysis] = {}
    for row in norms:
        worst[row.skip] = max(worst.get(row.skip, row), row, key=lambda each: max(each.shift, each.scale))
    rows = [*worst.values()]
    return [
        *table(
            [
                ("worst norm", "<12", [_end(row.path) for row in rows]),
                ("of", "<9", [row.skip for row in rows]),
                *_columns(rows, shift="shift", scale="scale"),
            ]
        ),
        "shift: of the means, in standard deviations; scale: |ln| of the variances' ratio",
    ]


def _columns(rows: Sequence[Any], **fields: str) -> Iterator[tuple[str, str, list[str]]]:
    """Columns of numbers; `fields` are titles and the attributes to show."""
    for title, field in fields.items():
        values = [getattr(row, field) for row in rows]
        yield title, ">8", ["-" if value is None else f"{value:.3g}" for value in values]


def _end(path: str, width: int = 24) -> str:
    """A path, or only its end if it is too long."""
    return path if len(path) <= width else f"…{path[1 - width :]}"


def _wrapped(text: str, bullet: str = "") -> list[str]:
    indent = " " * len(bullet)
    # Numbers (1e-3) and paths contain hyphens.
    return textwrap.wrap(text, _WIDTH, break_on_hyphens=False, initial_indent=bullet, subsequent_indent=indent)
