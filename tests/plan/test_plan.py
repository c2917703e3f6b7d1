"""The plan: a plain value that prints and survives JSON; the paper's default cut."""

import dataclasses
import json
import re

import pytest
from torch import nn

import adaptive_depth as ad
from adaptive_depth.plan import Run, cut, protect_last


@pytest.mark.parametrize(("blocks", "mandatory"), [(2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (8, 4), (23, 12), (36, 18)])
def test_the_papers_cut(blocks: int, mandatory: int) -> None:
    names = [str(number) for number in range(blocks)]
    assert cut(names) == (tuple(names[:mandatory]), tuple(names[mandatory:]))


def test_a_stage_has_a_name_and_blocks_in_order() -> None:
    stage = ad.Stage(["encoder.layer1.0"], ["encoder.layer1.1", "encoder.layer1.2"])
    assert stage.name == "encoder.layer1"
    assert stage.mandatory == ("encoder.layer1.0",)
    assert stage.blocks == ("encoder.layer1.0", "encoder.layer1.1", "encoder.layer1.2")
    assert stage.norms is None
    assert stage.channel_dim == 1
    assert ad.Stage(("first",), ("second",)).name == "first"
    assert ad.Stage(("first",), ("second",), name="mine").name == "mine"


def test_stages_are_values() -> None:
    stage = ad.Stage(("a.0",), ("a.1",))
    stages = ad.Stages([stage])
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.name = "other"
    assert stages == ad.Stages((ad.Stage(["a.0"], ["a.1"]),))
    assert hash(stages) == hash(ad.Stages((stage,)))
    assert len(stages) == 1
    assert stages[0] is stage
    assert list(stages) == [stage]
    assert stage in stages


def test_they_print_as_a_table() -> None:
    stages = ad.Stages([ad.Stage(("a.0", "a.1"), ("a.2",), ("a.0.n",)), ad.Stage(("b.0",), ("b.1", "b.2"))])
    assert [line.split() for line in str(stages).splitlines()] == [
        ["stage", "mandatory", "skippable", "skip-aware", "norms"],
        ["a", "2", "1", "1"],
        ["b", "1", "2", "all", "mandatory"],
    ]


def test_json_and_back() -> None:
    stages = ad.Stages(
        [
            ad.Stage(("a.0",), ("a.1",), ("a.0.n",), "first", -1),
            ad.Stage(("b.0",), ("b.1",)),
            ad.Stage(["c"], ["d"], ()),
        ]
    )
    plain = json.loads(json.dumps(stages.to_json()))
    assert plain[0] == {
        "mandatory": ["a.0"], "skippable": ["a.1"], "norms": ["a.0.n"], "name": "first", "channel_dim": -1,
        "returns": None,
    }  # fmt: skip
    assert plain[1]["norms"] is None
    assert plain[2]["norms"] == []
    assert ad.Stages.from_json(plain) == stages


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: ad.Stage("layer1.0", ("layer1.1",)),
            "mandatory='layer1.0' of a stage: expected a sequence of module p",
        ),
        (lambda: ad.Stage(("a",), "b"), "skippable='b' of a stage: expected a sequence of module paths, such as ('la"),
        (lambda: ad.Stage(("a",), ("b",), "c"), "norms='c' of a stage: expected a sequence of module paths"),
        (lambda: ad.Stage(("a",), None), "skippable=None of a stage: expected a sequence of module paths"),
        (lambda: ad.Stage(1, 2), "mandatory=1 of a stage: expected a sequence of module paths"),
        (
            lambda: ad.Stage((nn.ReLU(),), ("b",)),
            "mandatory of a stage holds a ReLU: expected module paths, such as 'lay",
        ),
        (lambda: ad.Stage(("a",), (1,)), "skippable of a stage holds a int: expected module paths"),
        (
            lambda: ad.Stage((), ("b",)),
            "stage with mandatory=() and skippable=('b',): each sub-path needs at least one",
        ),
        (
            lambda: ad.Stage(("a",), ()),
            "each sub-path needs at least one block; leave a stage out of the list if it can",
        ),
        (
            lambda: ad.Stages(["layer1"]),
            "stages hold a str: expected adaptive_depth.Stage(mandatory=..., skippable=",
        ),
        (lambda: ad.Stages(ad.Stage(("a",), ("b",))), "stages are a Stage: expected a list, [Stage(...), ...]"),
        (lambda: ad.Stages(3), "stages are a int: expected a list, [Stage(...), ...]"),
        (
            lambda: ad.Stages.from_json([{"mandatory": ["a"]}]),
            "expected objects with mandatory, skippable, norms, name,",
        ),
        (
            lambda: ad.Stages.from_json([{"mandatory": ["a"], "skippable": ["b"], "x": 1}]),
            "0.x: Unexpected keyword argument; received 1; expected objects with",
        ),
        (lambda: ad.Stages.from_json([3]), "stages [3]: "),
        (
            lambda: ad.Stages.from_json([{"mandatory": [1], "skippable": ["b"]}]),
            "0.mandatory.0: Input should be a valid string",
        ),
    ],
)
def test_what_is_no_stage(make, said: str) -> None:
    with pytest.raises(ad.StagesError, match=re.escape(said)):
        make()


@pytest.mark.parametrize(("layers", "protected"), [(1, 1), (2, 1), (3, 1), (6, 1), (23, 1), (30, 2), (40, 2), (64, 4)])
def test_the_last_layers_of_a_language_model_are_protected(layers: int, protected: int) -> None:
    names = tuple(str(number) for number in range(layers))
    (run,) = protect_last([Run(names, name="layers", channel_dim=-1, flat=True)])
    assert run == Run(names[: layers - protected], name="layers", channel_dim=-1, flat=True)
