"""`deploy/predictions.py`: outputs in words, by what they stand for."""

import json
from typing import Any

import numpy as np
import pytest

from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.predictions import Reader
from adaptive_depth.meaning import Meaning

CLASSES, LABELS, METRES = Meaning("classes"), Meaning("labels"), Meaning("numbers", "m")
NAMES = ("ant", "bee", "cat")


def logits(*probabilities: float) -> list[float]:
    """Whose sigmoids these are."""
    return [float(np.log(p / (1 - p))) for p in probabilities]


def of_pixels(*numbers: int) -> Any:
    """Logits `[1, 7, 1, pixels]` of these classes."""
    return 5 * np.eye(7)[list(numbers)].T[None, :, None]


@pytest.mark.parametrize(
    ("meaning", "output", "text", "values"),
    [
        (CLASSES, np.log([[0.125, 0.25, 0.625]]), "cat 62.5 %", {"class": "cat", "score": 0.625}),
        (CLASSES, np.log([[0.25, 0.75]]), "class 1 75.0 %", {"class": "class 1", "score": 0.75}),  # names of others
        (CLASSES, [[1000.0, 0.0, -1000.0]], "ant 100.0 %", {"class": "ant", "score": 1.0}),
        (LABELS, [logits(0.625, 0.4, 0.75)], "cat 75.0 %, ant 62.5 %", {"labels": {"cat": 0.75, "ant": 0.625}}),
        (LABELS, [logits(0.125, 0.25, 0.5)], "none, most probable cat 50.0 %", {"labels": {}}),
        (LABELS, [[-2000.0, 2000.0, -1.0]], "bee 100.0 %", {"labels": {"bee": 1.0}}),
        (LABELS, [logits(0.75)], "class 0 75.0 %", {"labels": {"class 0": 0.75}}),
        # Two yes in four places of the first label, none of the second, all of the third.
        (
            LABELS,
            [[[[1, 1], [-1, -1]], [[-1, -1], [-1, -1]], [[1, 1], [1, 1]]]],
            "ant 50.0 %, cat 100.0 %",
            {"shares": {"ant": 0.5, "cat": 1.0}},
        ),
        (METRES, [[3.25]], "3.25 m", {"numbers": [3.25], "unit": "m"}),
        (METRES, [3.25], "3.25 m", {"numbers": [3.25], "unit": "m"}),  # [batch]
        (Meaning("numbers"), [[1.0, -2.5]], "1, -2.5", {"numbers": [1.0, -2.5]}),
        (
            METRES,
            [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]],
            "3 x 3 numbers from 0 to 8 m",
            {"shape": [3, 3], "range": [0.0, 8.0], "mean": 4.0, "unit": "m"},
        ),
        (
            CLASSES,
            of_pixels(0, 0, 0, 1, 1, 2, 3, 4, 5, 6),
            "class 0 30.0 %, class 1 20.0 %, class 2 10.0 %, class 3 10.0 %, class 4 10.0 %, 2 more",
            {"shares": {f"class {i}": share for i, share in enumerate((0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1))}},
        ),
        (CLASSES, [[float("nan"), 1.0]], "non-finite numbers", {}),
        (METRES, [[float("inf")]], "non-finite numbers", {}),
        (None, [[1.0]], "number 1", {"shape": [1], "range": [1.0, 1.0], "mean": 1.0}),
        (METRES, [[]], "0, no numbers", {"shape": [0]}),
    ],
)
def test_by_hand(meaning: Meaning | None, output: Any, text: str, values: dict[str, Any]) -> None:
    (found,) = Reader(NAMES, {} if meaning is None else {"": meaning})(np.array(output, np.float32))
    assert found.text == str(found) == text
    assert rounded(json.loads(json.dumps(found.values))) == values


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def test_heads_in_turn() -> None:
    meanings = {"kind": CLASSES, "size": METRES}
    outputs = {
        "kind": np.log([[0.25, 0.75]]),
        "size": np.array([[2.5]]),
        "anchors": np.arange(4.0).reshape(2, 2),  # not of one image
        "tag": np.array([3]),
    }
    assert [str(each) for each in Reader((), meanings)(outputs)] == [
        "kind: class 1 75.0 %",
        "size: 2.5 m",
        "anchors: 2 x 2 numbers from 0 to 3",
        "tag: number 3",
    ]


@pytest.mark.parametrize(
    ("output", "labels"),
    [([[1.0, 2.0]], None), ([1.0], ()), ([[1.0]], ()), (np.zeros((1, 3, 2, 2)), ())],
    ids=["several labels", "a number", "a number in a list", "a map"],
)
def test_what_may_be_no_classes_is_not_named(output: Any, labels: Any) -> None:
    (found,) = Reader(labels)(np.array(output))
    assert "class" not in found.values


def test_the_reader_of_a_file() -> None:
    stages = ({"mandatory": ("a",), "skippable": ("b",), "norms": ()},)
    bare = Artifact("onnx", stages, ("F",), (None, 3, 8, 8))
    named = Artifact("onnx", stages, ("F",), (None, 3, 8, 8), labels=NAMES)
    told = Artifact("onnx", stages, ("F",), (None, 3, 8, 8), meanings={"": METRES})
    output = np.log(np.array([[0.125, 0.25, 0.625]]))
    said = [
        Reader.of(each, classes=classes)(output)[0].text
        for each, classes in ((bare, True), (bare, False), (named, False), (told, True))
    ]
    assert said == ["class 2 62.5 %", "3 numbers from -2.079 to -0.47", "cat 62.5 %", "-2.079, -1.386, -0.47 m"]
