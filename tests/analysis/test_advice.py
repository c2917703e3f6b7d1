"""Advice: the sentence that each finding calls for, and no other."""

from dataclasses import replace

import pytest

from adaptive_depth.analysis.advice import advise
from adaptive_depth.analysis.values import Analysis, BlockAnalysis, NormAnalysis, StageAnalysis

ONE = StageAnalysis(1, "one", predicted=-0.3, change=-0.25, cosine=0.2, skipping=0.02, divergence=0.01)
TWO = StageAnalysis(2, "two", predicted=-0.4, change=-0.35, cosine=0.1, skipping=0.03, divergence=0.02)
BLOCKS = (
    BlockAnalysis("a", 1, False, 0.5),
    BlockAnalysis("b", 1, True, 0.11, None, -0.2, -0.2, 0.3),
    BlockAnalysis("c", 1, True, 0.13, None, -0.1, -0.05, 0.1),
    BlockAnalysis("d", 2, False, None),
    BlockAnalysis("e", 2, True, 0.2, None, -0.4, -0.35, 0.1),
)
FINE = NormAnalysis("FT", 2, "d.norm", shift=0.05, scale=0.1, norms=3, channels=100)
LOSSES = {"FF": 0.5, "FT": 0.53, "TF": 0.52, "TT": 0.55}
GOOD = Analysis(BLOCKS, (ONE, TWO), (FINE,), LOSSES, 1000, classes=10, seen=10)
HOLDS = (
    "The rationale holds: every skippable sub-path lowers the loss, along the negative gradient (cosine 0.1 to 0.2), "
    "by about what the first-order expansion predicts."
)
HARMLESS = (
    "No stage's skip hurts: the costliest, stage 2 (two), adds 0.03 to the loss of 0.5 (the right class becomes 3 % "
    "less probable, on average)."  # 1 - exp(-0.03) = 0.0296
)


def advice(one=ONE, two=TWO, norms=(FINE,), **more) -> tuple[str, ...]:
    return advise(replace(GOOD, stages=(one, two), norms=norms, **more))


def test_all_is_well() -> None:
    assert advise(GOOD) == (HARMLESS, HOLDS)
    assert advise(replace(GOOD, advice=("older",))) == (HARMLESS, HOLDS)


def test_classes_that_were_not_seen_and_few_images_come_first() -> None:
    assert advice(seen=3) == (
        "The images cover 3 of the network's 10 classes: these results do not apply to the others.",
        HARMLESS,
        HOLDS,
    )
    assert advice(images=99)[0] == "Only 99 samples were measured: small differences may be chance."
    assert advice(images=100)[0] == HARMLESS


def test_a_loss_of_other_labels_than_classes_is_judged_by_its_own_size() -> None:
    """An RMSE in metres, say: what is little of one loss is much of another."""
    other = {"classes": None, "seen": None}
    assert advice(**other)[0] == (
        "No stage's skip hurts: the costliest, stage 2 (two), adds 0.03 to the loss of 0.5 (6 % more)."
    )
    small = {"FF": 0.05, "FT": 0.08, "TF": 0.07, "TT": 0.1}
    assert advice(**other, losses=small)[0].startswith("Skipping stage 2 (two) hurts, more than any other: the loss")
    assert advice(losses=small)[0].startswith("No stage's skip hurts")  # nats
    idle = replace(ONE, change=-0.002, skipping=0.002)
    assert not any("refines nothing" in said for said in advice(idle, **other))
    assert any("refines nothing" in said for said in advice(idle, **other, losses=dict.fromkeys(LOSSES, 5.0)))


def test_a_skip_that_hurts() -> None:
    (said, *rest) = advice(two=replace(TWO, skipping=0.25))
    assert said == (
        "Skipping stage 2 (two) hurts, more than any other: the loss rises from 0.5 to 0.75 (+0.25), and its features "
        "differ by a KL of 0.02 nats; skip other stages first, or train longer, or with the feature term "
        "(feature_weight)."
    )
    assert rest == [HOLDS]
    first, second, _ = advice(replace(ONE, skipping=0.2), replace(TWO, skipping=0.25))
    assert first.startswith("Skipping stage 2 (two) hurts, more than any other: the loss rises from 0.5 to 0.75")
    assert second.startswith("Skipping stage 1 (one) hurts: the loss rises from 0.5 to 0.7 (+0.2), and its features")
    assert advice(two=replace(TWO, skipping=0.1))[0].startswith("No stage's skip hurts: the costliest, stage 2")


def test_a_skip_that_hurts_for_its_norms_sake() -> None:
    hurting, off = replace(TWO, skipping=0.25), replace(FINE, shift=0.8)
    assert advice(two=hurting, norms=(off,))[0].endswith(
        "(+0.25), and its norms see statistics that differ from their running ones; fix that first (see below)."
    )
    assert "its features differ" in advice(two=hurting, norms=(replace(off, skip="TF"),))[0]


@pytest.mark.parametrize("change", [0.0, -0.0009])
def test_a_sub_path_that_refines_nothing(change) -> None:
    idle = replace(ONE, change=change, predicted=change, cosine=-0.05)
    assert advice(idle) == (
        HARMLESS,
        f"The skippable sub-path of stage 1 (one) refines nothing: it changes the loss by {change:+.2g} (‖F‖/‖h‖ 0.11 "
        "to 0.13, cosine -0.05).",
    )
    assert advice(replace(idle, skipping=0.0005, cosine=None))[1].endswith(
        "(‖F‖/‖h‖ 0.11 to 0.13, cosine unknown); skipping it costs nothing, so leave it out."
    )


def test_a_sub_path_that_harms_refines_nothing_either() -> None:
    (_, said) = advice(two=replace(TWO, change=0.2, predicted=0.2))
    assert said.startswith(
        "The skippable sub-path of stage 2 (two) refines nothing: it changes the loss by +0.2 (‖F‖/‖h‖ 0.2"
    )


def test_a_sub_path_that_helps_against_the_gradient() -> None:
    for cosine, told in ((-0.1, "-0.1"), (0.0, "0"), (None, "unknown")):
        assert advice(replace(ONE, cosine=cosine)) == (
            HARMLESS,
            "The skippable sub-path of stage 1 (one) lowers the loss by 0.25, but not along the negative gradient: the "
            f"cosine is {told}.",
        )


def test_an_expansion_that_does_not_hold() -> None:
    assert advice(replace(ONE, predicted=-0.38), replace(TWO, predicted=0.1)) == (
        HARMLESS,
        "The first-order expansion does not hold: predicted for stage 1 (one): -0.38, measured -0.25; for stage 2 "
        "(two): +0.1, measured -0.35. The residuals are too large a step for it (‖F‖/‖h‖ 0.2 in stage 2). "
        "The sub-networks work regardless: only the paper's explanation does not (yet) apply to this network.",
    )
    assert advice(replace(ONE, predicted=-0.37)) == (HARMLESS, HOLDS)  # off by less than half
    assert "expansion does not" not in " ".join(advice(replace(ONE, predicted=0.0009, change=-0.0009)))


def test_the_network_trained_without_the_method() -> None:
    blocks = tuple(replace(block, alone=0.4) for block in BLOCKS)
    assert advice(blocks=blocks)[-1] == (
        "Mean ‖F‖/‖h‖ compared with the network trained without the method: 0.147 in skippable blocks, "
        "vs. 0.4: smaller, as the paper finds; 0.5 in mandatory blocks, vs. 0.4: larger, as the paper finds."
    )
    zero = tuple(replace(block, alone=0.0) for block in BLOCKS)
    assert "0.147 in skippable blocks, vs. 0: not smaller, unlike the paper; " in advice(blocks=zero)[-1]
    large = tuple(replace(block, alone=0.9) for block in BLOCKS)
    assert advice(blocks=large)[-1].endswith("vs. 0.9: not larger, unlike the paper.")


def test_a_network_whose_residuals_are_all_zero_is_not_trained() -> None:
    blocks = tuple(replace(block, ratio=0.0) if block.skippable else block for block in BLOCKS)
    said = advice(blocks=blocks)
    assert said[1].startswith("All skippable blocks add exactly 0: the network is not trained yet")
    assert not any("refines nothing" in each or "rationale holds" in each for each in said)


def test_unhealthy_statistics() -> None:
    shifted, scaled = replace(FINE, shift=0.9, path="x"), replace(FINE, skip="TF", scale=0.7, path="y")
    assert advice(norms=(shifted, FINE, scaled, replace(scaled, stage=1)))[2:] == (
        "Norm statistics look unhealthy in FT, TF: worst is x in FT, which sees means 0.9 standard deviations off and "
        "variances off by a factor of 1.1. Calibrate the network on training batches; if it already is, these "
        "images differ from the training images.",
    )
    assert (
        "worst is y in TF, which sees means 0.05 standard deviations off and variances off by a factor of 2"
        in (advice(norms=(replace(shifted, shift=0.31), scaled))[2])
    )
    assert len(advice(norms=(replace(FINE, shift=0.3, scale=0.5),))) == 2


def test_statistics_that_were_never_gathered() -> None:
    assert advice(norms=(FINE, replace(FINE, initial=3)))[2:] == (
        "Norms never gathered statistics in FT (3 of stage 2, for example): train the network, or calibrate it on "
        "training batches.",
    )


def test_dead_channels() -> None:
    assert len(advice(norms=(replace(FINE, dead=10),))) == 2
    assert advice(norms=(replace(FINE, dead=12), replace(FINE, skip="TT", dead=11)))[2:] == (
        "12 of 100 channels of the norms of stage 2 in FT have a running variance of nearly 0: they are dead, or the "
        "statistics are wrong.",
    )
