"""What an analysis means, in words: a function of plain values, without torch."""

import math
from collections.abc import Iterable, Iterator, Sequence

from .values import Analysis, BlockAnalysis, NormAnalysis, StageAnalysis

# Losses of classes are in nats, the unit of cross-entropy; those of other targets have their own scale, see `_scale`.
HURTS = 0.1  # this much more loss makes the right class a tenth less probable
NOTHING = 1e-3  # a thousandth less probable: not worth any sub-path's time
HOLDS = 0.5  # the expansion holds if its error is at most half the change: sign and magnitude are right
SHIFT = 0.3  # standard deviations; sampling noise of a few hundred images is below a tenth
SCALE = 0.5  # |ln| of variances: a factor of 1.65; sampling noise is small here, too
DEAD = 0.1  # share of channels; many trained networks have a few dead ones
FEW = 100  # images; with fewer, mean losses and norm statistics are mostly chance


def advise(analysis: Analysis) -> tuple[str, ...]:
    """Sentences with numbers: what to trust, which stage's skip hurts, which sub-path refines nothing, whether the
    rationale holds, and which norms are unhealthy.

    Arguments:
        analysis: its own `advice` is ignored.

    Example:
        >>> stage = StageAnalysis(1, "one", predicted=-0.3, change=-0.31, cosine=0.2, skipping=0.02, divergence=0.01)
        >>> block = BlockAnalysis("blocks.1", 1, True, ratio=0.1, predicted=-0.3, change=-0.31, cosine=0.2)
        >>> for said in advise(Analysis((block,), (stage,), (), {"F": 0.5, "T": 0.52}, images=1000, classes=9, seen=9)):
        ...     print(said)
        No stage's skip hurts: the costliest, stage 1 (one), adds 0.02 to the loss of 0.5 (the right class becomes 2 %
        less probable, on average).
        The rationale holds: every skippable sub-path lowers the loss, along the negative gradient (cosine 0.2), by
        about what the first-order expansion predicts.
    """
    parts = (_about_images(analysis), _about_skipping(analysis), _about_refining(analysis))
    return tuple(said for part in (*parts, _about_size(analysis.blocks), _about_norms(analysis.norms)) for said in part)


def _about_images(analysis: Analysis) -> Iterator[str]:
    if analysis.seen is not None and analysis.classes is not None and analysis.seen < analysis.classes:
        yield (
            f"The images cover {analysis.seen} of the network's {analysis.classes} classes: these results do not apply "
            "to the others."
        )
    if analysis.images < FEW:
        yield f"Only {analysis.images} samples were measured: small differences may be chance."


# -- which stage's skip hurts -----------------------------------------------------------------------------------


def _about_skipping(analysis: Analysis) -> Iterator[str]:
    loss = analysis.super_loss
    worst = max(analysis.stages, key=lambda stage: stage.skipping)
    if worst.skipping <= HURTS * _scale(analysis):
        yield (
            f"No stage's skip hurts: the costliest, {worst}, adds {worst.skipping:.2g} to the loss of {loss:.3g}"
            f"{_in_words(analysis, worst.skipping)}."
        )
        return
    for stage in sorted(analysis.stages, key=lambda stage: -stage.skipping):
        if stage.skipping > HURTS * _scale(analysis):
            most = ", more than any other" if stage is worst and len(analysis.stages) > 1 else ""
            yield (
                f"Skipping {stage} hurts{most}: the loss rises from {loss:.3g} to {loss + stage.skipping:.3g} (+"
                f"{stage.skipping:.2g}), {_why(analysis, stage)}."
            )


def _scale(analysis: Analysis) -> float:
    """What the thresholds are multiples of: a nat where labels are classes, else the super-net's loss."""
    return 1.0 if analysis.classes is not None else abs(analysis.super_loss)


def _in_words(analysis: Analysis, loss: float) -> str:
    """What this much more loss means; empty if it is not more."""
    if loss <= 0:
        return ""
    if analysis.classes is None:
        scale = _scale(analysis)
        return f" ({100 * loss / scale:.2g} % more)" if scale else ""
    return f" (the right class becomes {100 * -math.expm1(-loss):.2g} % less probable, on average)"


def _why(analysis: Analysis, stage: StageAnalysis) -> str:
    """What can be done about a skip that hurts."""
    alone = "".join("T" if other is stage else "F" for other in analysis.stages)
    if any(row.skip == alone and _is_off(row) for row in analysis.norms):
        return "and its norms see statistics that differ from their running ones; fix that first (see below)"
    return (
        f"and its features differ by a KL of {stage.divergence:.2g} nats; skip other stages first, or train longer, or "
        "with the feature term (feature_weight)"
    )


# -- which sub-path refines nothing, and whether the expansion holds --------------------------------------------


def _about_refining(analysis: Analysis) -> Iterator[str]:
    if not any(block.ratio for block in analysis.blocks if block.skippable):
        yield (
            "All skippable blocks add exactly 0: the network is not trained yet (its residual branches start at 0), so "
            "the rationale cannot be judged."
        )
        return
    nothing = NOTHING * _scale(analysis)
    idle = [stage for stage in analysis.stages if stage.change >= -nothing]
    off = [stage for stage in analysis.stages if not _expansion_holds(stage, nothing)]
    against = [stage for stage in analysis.stages if stage not in idle and (stage.cosine or 0) <= 0]
    for stage in idle:
        gain = "" if stage.skipping > nothing else "; skipping it costs nothing, so leave it out"
        yield (
            f"The skippable sub-path of {stage} refines nothing: it changes the loss by {stage.change:+.2g} (‖F‖/‖h‖ "
            f"{_ratios(analysis, stage)}, cosine {_number(stage.cosine)}){gain}."
        )
    for stage in against:
        yield (
            f"The skippable sub-path of {stage} lowers the loss by {-stage.change:.2g}, but not along the negative "
            f"gradient: the cosine is {_number(stage.cosine)}."
        )
    if off:
        told = (f"{stage}: {stage.predicted:+.2g}, measured {stage.change:+.2g}" for stage in off)
        longest = max(off, key=lambda stage: abs(stage.predicted - stage.change))
        yield (
            f"The first-order expansion does not hold: predicted for {'; for '.join(told)}. The residuals are too "
            f"large a step for it (‖F‖/‖h‖ {_ratios(analysis, longest)} in stage {longest.stage}). The sub-networks "
            "work regardless: only the paper's explanation does not (yet) apply to this network."
        )
    if not (idle or off or against):
        yield (
            "The rationale holds: every skippable sub-path lowers the loss, along the negative gradient (cosine "
            f"{_span([stage.cosine or 0 for stage in analysis.stages])}), by about what the first-order expansion "
            "predicts."
        )


def _expansion_holds(stage: StageAnalysis, nothing: float) -> bool:
    size = max(abs(stage.change), abs(stage.predicted))
    # The ratio of two negligible numbers is noise.
    return size <= nothing or abs(stage.predicted - stage.change) <= HOLDS * abs(stage.change)


# -- how large the residuals are --------------------------------------------------------------------------------


def _about_size(blocks: Sequence[BlockAnalysis]) -> Iterator[str]:
    told = []
    for kind, skippable, expected in (("skippable", True, "smaller"), ("mandatory", False, "larger")):
        sizes = [(block.ratio, block.alone) for block in blocks if block.skippable == skippable]
        pairs = [(ours, alone) for ours, alone in sizes if ours is not None and alone is not None]
        if pairs:
            ours, alone = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
            agrees = ours < alone if skippable else ours > alone
            verdict = f"{expected}, as the paper finds" if agrees else f"not {expected}, unlike the paper"
            told.append(f"{ours:.3g} in {kind} blocks, vs. {alone:.3g}: {verdict}")
    if told:
        yield f"Mean ‖F‖/‖h‖ compared with the network trained without the method: {'; '.join(told)}."


# -- which norms are unhealthy ----------------------------------------------------------------------------------


def _about_norms(norms: Sequence[NormAnalysis]) -> Iterator[str]:
    off = [row for row in norms if _is_off(row)]
    if off:
        worst = max(off, key=lambda row: max(row.shift / SHIFT, row.scale / SCALE))
        yield (
            f"Norm statistics look unhealthy in {', '.join(_skips(off))}: worst is {worst.path} in {worst.skip}, which "
            f"sees means {worst.shift:.2g} standard deviations off and variances off by a factor of "
            f"{math.exp(worst.scale):.2g}. Calibrate the network on training batches; if it already is, these images "
            "differ from the training images."
        )
    initial = [row for row in norms if row.initial]
    if initial:
        yield (
            f"Norms never gathered statistics in {', '.join(_skips(initial))} ({initial[0].initial} of "
            f"{_where(initial[0].stage)}, for example): train the network, or calibrate it on training batches."
        )
    dead = [row for row in norms if row.dead > DEAD * row.channels]
    if dead:
        worst = max(dead, key=lambda row: row.dead / row.channels)
        yield (
            f"{worst.dead} of {worst.channels} channels of the norms of {_where(worst.stage)} in {worst.skip} have a "
            "running variance of nearly 0: they are dead, or the statistics are wrong."
        )


def _where(stage: int) -> str:
    return f"stage {stage}" if stage else "the stem"


def _is_off(row: NormAnalysis) -> bool:
    return row.shift > SHIFT or row.scale > SCALE


def _skips(rows: Iterable[NormAnalysis]) -> list[str]:
    return list(dict.fromkeys(row.skip for row in rows))


def _ratios(analysis: Analysis, stage: StageAnalysis) -> str:
    """‖F‖/‖h‖ of the skippable blocks of a stage."""
    blocks = (block for block in analysis.blocks if block.stage == stage.stage and block.skippable)
    return _span([block.ratio for block in blocks if block.ratio is not None])


def _span(numbers: Sequence[float]) -> str:
    """The range of some numbers.

    Example:
        >>> _span([0.3, 0.1]), _span([0.2]), _span([])
        ('0.1 to 0.3', '0.2', 'unknown')
    """
    ends = list(dict.fromkeys(f"{end:.2g}" for end in (min(numbers), max(numbers)))) if numbers else ["unknown"]
    return " to ".join(ends)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"
