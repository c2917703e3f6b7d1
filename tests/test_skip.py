"""Skip configurations: what is read, what is refused and how, and their order."""

import re

import numpy as np
import pytest
import torch

import adaptive_depth as ad

MEND = "expected one capital T (skip) or F (do not) for each of 4 stages, such as 'TTFF'"


@pytest.mark.parametrize(
    ("skip", "letters"),
    [
        ("TTFF", "TTFF"),
        ("FFFF", "FFFF"),
        ([True, False, True, False], "TFTF"),
        ((False, False, False, True), "FFFT"),
        (np.array([True, True, False, True]).tolist(), "TTFT"),
        (iter([True, True, True, False]), "TTTF"),
        (np.str_("FTFT"), "FTFT"),
    ],
)
def test_letters_and_booleans_mean_the_same(skip: object, letters: str) -> None:
    assert ad.parse_skip(skip, 4) == letters


def test_one_stage() -> None:
    assert ad.parse_skip("T", 1) == "T"
    with pytest.raises(ad.SkipError, match=re.escape("for each of 1 stages, such as 'F'")):
        ad.parse_skip("", 1)


@pytest.mark.parametrize(
    ("skip", "said"),
    [
        ("", "skip '' is for 0 stages, but the network has 4"),
        ("TTF", "skip 'TTF' is for 3 stages, but the network has 4"),
        ("TTFFF", "skip 'TTFFF' is for 5 stages, but the network has 4"),
        ([], "skip [] is for 0 stages, but the network has 4"),
        ((True,) * 5, "is for 5 stages, but the network has 4"),
        ("ttff", "skip 'ttff' has the letters 'ft'"),
        ("TTF ", "skip 'TTF ' has the letters ' '"),
        ("1100", "skip '1100' has the letters '01'"),
        ("TTXF", "skip 'TTXF' has the letters 'X'"),
        ([1, 1, 0, 0], "skip [1, 1, 0, 0] has elements that are not booleans"),
        (["T", "T", "F", "F"], "has elements that are not booleans"),
        ((True, True, False, None), "has elements that are not booleans"),
        (b"TTFF", "skip b'TTFF' has elements that are not booleans"),
        (np.array([True, True, False, False]), "has elements that are not booleans"),
        (torch.tensor([True, True, False, False]), "has elements that are not booleans"),
        (None, "skip None is a NoneType"),
        (3, "skip 3 is a int"),
        (True, "skip True is a bool"),
    ],
)
def test_anything_else_is_refused_with_the_mend(skip: object, said: str) -> None:
    with pytest.raises(ad.SkipError, match=f"{re.escape(said)}.*{re.escape(MEND)}"):
        ad.parse_skip(skip, 4)


def test_errors_are_value_errors_of_one_family() -> None:
    for name in ("Budget", "Checkpoint", "Data", "Model", "Skip", "Stages", "Training"):
        assert issubclass(getattr(ad, f"{name}Error"), ad.AdaptiveDepthError)
    assert issubclass(ad.AdaptiveDepthError, ValueError)


def test_all_skips_start_with_the_super_net_and_keep_prefixes_together() -> None:
    assert ad.all_skips(1) == ("F", "T")
    assert ad.all_skips(3) == ("FFF", "FFT", "FTF", "FTT", "TFF", "TFT", "TTF", "TTT")
    for stages in range(1, 7):
        skips = ad.all_skips(stages)
        assert len(set(skips)) == len(skips) == 2**stages
        assert [int(skip.replace("F", "0").replace("T", "1"), 2) for skip in skips] == list(range(2**stages))


def test_networks_refuse_what_parse_skip_refuses(nets, unchanged) -> None:
    network = nets.chain()
    x = torch.randn(1, 3, 8, 8)
    with unchanged(network):
        for use in (network.subnet, network.extract, lambda skip: network(x, skip=skip)):
            for wrong in ("TTT", "tt", [1, 0], b"TF", 7, {}):
                with pytest.raises(ad.SkipError, match="for each of 2 stages, such as 'TF'"):
                    use(wrong)
    assert torch.equal(network(x, skip=(True, False)), network(x, skip="TF"))
    assert network.subnet([True, False]) is network.subnet("TF")
