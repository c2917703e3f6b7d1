"""Analysis: a plain value that prints, survives JSON, and needs no torch."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from adaptive_depth.analysis.values import Analysis, BlockAnalysis, NormAnalysis, StageAnalysis
from adaptive_depth.errors import MeasurementError

FOUND = Analysis(
    blocks=(
        BlockAnalysis("encoder.layers.a_name_that_is_long_0", 1, False, None),
        BlockAnalysis("blocks.1", 1, True, 0.25, None, -0.5, -0.4375, 0.125),
    ),
    stages=(StageAnalysis(1, "one", -0.5, -0.4375, None, 0.03125, 0.0625),),
    norms=(
        NormAnalysis("F", 0, "stem", 0.01, 0.02, 1, 8),
        NormAnalysis("F", 1, "blocks.0.norm", 0.5, 0.02, 2, 16),
        NormAnalysis("T", 1, "blocks.0.norm", 0.25, 2.0, 1, 8),
    ),
    losses={"F": 1.5, "T": 1.53125},
    images=64,
    classes=10,
    seen=9,
    advice=("Some words that are said.", "word " * 40),
    network="0123456789abcdef",
)


def test_json_and_back() -> None:
    told = json.loads(json.dumps(FOUND.to_json()))
    assert Analysis.from_json(told) == FOUND
    assert told["stages"] == [
        {
            "stage": 1,
            "name": "one",
            "predicted": -0.5,
            "change": -0.4375,
            "cosine": None,
            "skipping": 0.03125,
            "divergence": 0.0625,
        }
    ]
    assert list(told) == ["blocks", "stages", "norms", "losses", "images", "classes", "seen", "advice", "network"]


@pytest.mark.parametrize(
    "broken",
    [
        {},
        [],
        {**FOUND.to_json(), "more": 1},
        {name: value for name, value in FOUND.to_json().items() if name != "norms"},
        {name: value for name, value in FOUND.to_json().items() if name != "images"},
        {**FOUND.to_json(), "stages": [{"stage": 1}]},
        {**FOUND.to_json(), "blocks": 3},
        {**FOUND.to_json(), "losses": ["F", "T"]},
        {**FOUND.to_json(), "images": "many"},
    ],
)
def test_broken_json_is_refused(broken) -> None:
    with pytest.raises(
        MeasurementError, match=r"expected an object with blocks, stages, norms, losses, images, .*ratio"
    ):
        Analysis.from_json(broken)


@pytest.mark.parametrize("part", [{"blocks": ()}, {"stages": ()}, {"losses": {"F": 1.0}}, {"images": 0}])
def test_an_analysis_of_nothing_is_refused(part) -> None:
    with pytest.raises(
        MeasurementError, match=r"an analysis of \d blocks, .*: expected some of each, and the losses of"
    ):
        replace(FOUND, **part)
    with pytest.raises(MeasurementError, match="expected some of each"):
        Analysis.from_json({**FOUND.to_json(), **part})


def test_it_prints_every_number_once_in_eighty_columns() -> None:
    lines = str(FOUND).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Loss on 64 images: F 1.5 (super-net), T 1.531 (base-net)"
    assert "1 one             -0.5   -0.438        -   0.0312   0.0625" in lines
    assert "…s.a_name_that_is_long_0 mandatory        -         -        -        -" in lines
    assert "blocks.1                 skippable     0.25      -0.5   -0.438    0.125" in lines
    assert [line for line in lines if line.startswith("blocks.0.norm")] == [
        "blocks.0.norm F              0.5     0.02",
        "blocks.0.norm T             0.25        2",
    ]
    assert not any("stem" in line for line in lines)  # not the worst of F
    assert lines[-4] == "- Some words that are said."
    assert lines[-1].startswith("  word")


def test_the_other_network_has_a_column_where_there_is_one() -> None:
    compared = replace(FOUND, blocks=(replace(FOUND.blocks[1], alone=0.75),))
    assert " alone " not in str(FOUND).partition("block  ")[2]
    assert " alone " in str(compared).partition("block  ")[2]
    assert "blocks.1     skippable     0.25     0.75      -0.5" in str(compared)
    assert max(map(len, str(compared).splitlines())) <= 80


def test_without_norms_and_advice_there_is_no_word_of_them() -> None:
    bare = str(replace(FOUND, norms=(), advice=()))
    assert "worst norm" not in bare
    assert bare.splitlines()[-1].startswith("blocks.1")


def test_the_super_nets_loss_comes_first() -> None:
    assert FOUND.super_loss == 1.5


def test_values_and_advice_need_no_torch() -> None:
    program = (
        "import sys\n"
        "import adaptive_depth.analysis.values, adaptive_depth.analysis.advice, adaptive_depth.plotting.analysis\n"
        "assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
