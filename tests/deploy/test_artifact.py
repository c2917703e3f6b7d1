"""`artifact.py`: what a file says of itself survives JSON, and what is damaged is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

import adaptive_depth as ad
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.errors import ArtifactError
from adaptive_depth.preprocessing import Preprocessing
from adaptive_depth.quality import Quality

STAGES = tuple(ad.Stages([ad.Stage((f"{i}.0",), (f"{i}.1",), norms=(), name=f"s{i}") for i in (1, 2)]).to_json())
FULL = Artifact(
    kind="onnx",
    stages=STAGES,
    skips=("FF", "TT"),
    input_shape=(None, 3, 32, 32),
    network="0123456789abcdef",
    form="folded",
    precision="int8",
    labels=("cat", "dög"),
    preprocessing=Preprocessing(32, 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bilinear", 0.9),
    trade_offs=ad.TradeOffs(
        (ad.Row("FF", 90, 4, 9, latency_ms=2.0), ad.Row("TT", 88, 2, 5, latency_ms=1.0)),
        device={"processor": "a"},
        ties=(("FF", "TT"),),
    ),
    accuracy={"FF": 89.5, "TT": 87.25},
)
BARE = Artifact("network", STAGES, ("FF",), (None, 3, None, None))


@pytest.mark.parametrize("artifact", [FULL, BARE])
def test_it_survives_json(artifact: Artifact) -> None:
    text = json.dumps(artifact.to_json())
    for description in (artifact.to_json(), json.loads(text), text, text.encode()):
        assert Artifact.from_json(description) == artifact
    assert ad.Stages.from_json(json.loads(text)["stages"]).to_json() == ad.Stages.from_json(list(STAGES)).to_json()


def test_lists_become_tuples() -> None:
    artifact = Artifact("onnx", list(STAGES), ["FF"], [None, 3, 8, 8], labels=["a"])  # type: ignore[arg-type]
    assert (artifact.skips, artifact.input_shape, artifact.labels) == (("FF",), (None, 3, 8, 8), ("a",))
    assert Preprocessing(8, 1, [0.5], [0.2]).mean == (0.5,)  # type: ignore[arg-type]


def test_it_prints_what_it_is() -> None:
    assert str(FULL) == "onnx of 2 depths, int8, norms folded, input any x 3 x 32 x 32"


def test_a_newer_library_may_add_nothing_unseen() -> None:
    newer = {**BARE.to_json(), "version": 6}
    with pytest.raises(
        ArtifactError, match=r"model\.onnx has version 6, but this library reads up to 5: pip install -U adapt"
    ):
        Artifact.from_json(newer, "model.onnx")
    assert Artifact.from_json({**BARE.to_json(), "version": 1}) == BARE


def test_names_of_outputs_need_this_version_and_one_output_none() -> None:
    several = replace(FULL, outputs=("kind", "size"))
    assert (several.to_json()["version"], several.to_json()["outputs"]) == (3, ["kind", "size"])
    assert Artifact.from_json(json.dumps(several.to_json())) == several
    assert str(several).endswith("input any x 3 x 32 x 32, outputs kind, size")
    assert "outputs" not in FULL.to_json()
    assert several.named([1, 2]) == {"kind": 1, "size": 2}
    assert FULL.named([1]) == 1


def test_another_quality_is_named_and_needs_this_version() -> None:
    """What version 1 could say is written as it was: readers of then read it still."""
    error = Quality("RMSE", "m", higher_is_better=False)
    for artifact in (
        replace(BARE, accuracy={"FF": 1.5}, quality=error),
        replace(BARE, accuracy={"FF": 90.0}, float_accuracy={"FF": 91.0}),
        replace(FULL, trade_offs=ad.TradeOffs((ad.Row("FF", 1.5, 400, 9),), quality=error)),
        replace(FULL, trade_offs=ad.TradeOffs((ad.Row("FF", 90.0, 400, 9, token_ms=2.0),))),
    ):
        plain = json.loads(json.dumps(artifact.to_json()))
        assert plain["version"] == 2
        assert Artifact.from_json(plain) == artifact
    for artifact in (BARE, FULL):
        plain = artifact.to_json()
        assert (plain["version"], "quality" in plain, "float_accuracy" in plain) == (1, False, False)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ('{"format": "adaptive-depth', "the description in model.onnx cannot be read .*: it is damaged"),
        (b"\xff\xfe\x00", "the description in model.onnx cannot be read"),
        ("[" * 100_000, "the description in model.onnx cannot be read"),
        ("[]", "model.onnx was not written by this library: expected a file that adaptive-depth export wrote"),
        ("null", "was not written by this library"),
        ({"format": "another"}, "was not written by this library"),
    ],
)
def test_a_foreign_or_truncated_description(description: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Artifact.from_json(description, "model.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "1"}, r"is damaged: its version is '1', where a number is expected"),
        ({"skips": []}, "skips are none: expected one depth or more.*: it is damaged"),
        ({"skips": ["FFF"]}, r"has an invalid description \(skip 'FFF' is for 3 stages, but the network has 2"),
        ({"skips": [3]}, r"has an invalid description .*skips.0: Input should be a valid string"),
        ({"skips": None}, "has an invalid description .*: it is damaged"),
        ({"stages": [1, 2]}, "has an invalid description"),
        ({"colour": "red"}, "has an invalid description .*colour"),
        ({"preprocessing": {"image_size": 3}}, "has an invalid description .*channels"),
        ({"trade_offs": {"rows": []}}, "has an invalid description .*expected at least one sub-network"),
        ({"trade_offs": 3}, "has an invalid description"),
        (
            {"input_shape": [None, "3", 32, 32]},
            r"has an invalid description .*input_shape.1: Input should be a valid integer",
        ),
        ({"input_shape": []}, r"has an invalid description \(input_shape"),
        ({"outputs": ["a", "a"]}, r"has an invalid description \(outputs are a, a: expected names that differ"),
        ({"outputs": ["skip"]}, r"outputs are skip: expected .* those of the inputs, image and skip"),
        ({"outputs": [""]}, r"has an invalid description .*outputs.0"),
        ({"quality": "RMSE"}, "has an invalid description"),
        ({"quality": {"kind": "RMSE"}}, "has an invalid description .*kind"),
    ],
)
def test_a_damaged_description(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Artifact.from_json({**FULL.to_json(), **change})


def test_a_description_without_a_field() -> None:
    plain = FULL.to_json()
    del plain["stages"]
    with pytest.raises(ArtifactError, match=r"the description has an invalid description .*stages"):
        Artifact.from_json(plain)


RATED = ad.TradeOffs(tuple(ad.Row(skip, value, 4, 9) for skip, value in (("FF", 80.0), ("FT", 70.0), ("TT", 60.0))))


def test_the_accuracy_of_the_file_itself_counts_more() -> None:
    known = replace(FULL, trade_offs=RATED, accuracy={"FF": 78.5})
    table = known.own_trade_offs()
    assert table is not None
    assert [row.accuracy for row in table.rows] == [78.5, 70.0, 60.0]
    assert replace(known, accuracy=None).own_trade_offs() is RATED
    assert BARE.own_trade_offs() is None


def test_the_file_and_its_table_are_of_one_quality() -> None:
    rmse = Quality("RMSE", "m", higher_is_better=False)
    known = replace(FULL, trade_offs=replace(RATED, quality=rmse), accuracy={"FF": 0.5}, quality=rmse)
    table = known.own_trade_offs()
    assert table is not None
    assert (table.quality, table.rows[0].accuracy) == (rmse, 0.5)
    with pytest.raises(ArtifactError, match=r"the file was measured by top-1 .*, but its trade-offs are of RMSE"):
        replace(known, quality=Artifact.quality).own_trade_offs()
