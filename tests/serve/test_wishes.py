"""What a request may ask for: read strictly, and never half."""

import pytest

import adaptive_depth as ad
from adaptive_depth.quality import Quality
from adaptive_depth.serve.problems import Problem
from adaptive_depth.serve.wishes import Wishes

from .conftest import TABLE


def test_of_parameters_and_headers() -> None:
    assert Wishes.of([]) == Wishes()
    assert Wishes.of([("skip", "TF"), ("Adaptive-Depth-Deadline-Ms", "12.5")]) == Wishes("TF", 12.5)
    assert Wishes.of([("accuracy", "70")]) == Wishes(accuracy=70.0)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([("skip", "F"), ("accuracy", "70")], "skip=F and accuracy=70 both determine the depth: set only one"),
        ([("depth", "F")], "depth='F' is not an option: expected some of skip, deadline_ms, accuracy"),
        ([("skip", "F"), ("adaptive-depth-skip", "T")], "skip is in the request twice"),
        ([("skip", "deep")], "a skip: one letter per stage"),
        ([("skip", "")], "a skip: one letter per stage"),
        ([("deadline_ms", "soon")], "deadline_ms='soon': expected a number, such as deadline_ms=50"),
        ([("deadline_ms", "nan")], "expected a finite number"),
        ([("deadline_ms", "-1")], "above 0"),
        ([("accuracy", "inf")], "expected a finite number"),
    ],
)
def test_what_is_no_wish_is_refused(told: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(Problem, match=said) as raised:
        Wishes.of(told)
    assert raised.value.status == 422


def test_the_depths_that_it_accepts() -> None:
    assert Wishes().depths(TABLE, ("F", "T")) is None
    assert Wishes("T").depths(TABLE, ("F", "T")) == ("T",)
    assert Wishes(accuracy=60.0).depths(TABLE, ("F", "T")) == ("F", "T")
    assert Wishes(accuracy=60.1).depths(TABLE, ("F", "T")) == ("F",)


def test_where_lower_is_better_a_quality_is_an_upper_limit() -> None:
    rows = ad.Row("F", 0.2, 4, 9), ad.Row("T", 0.4, 2, 5)
    table = ad.TradeOffs(rows, quality=Quality("RMSE", "m", higher_is_better=False))
    assert Wishes(accuracy=0.3).depths(table, ("F", "T")) == ("F",)
    with pytest.raises(Problem, match=r"accuracy=0\.1: the best depth, F, has RMSE 0.20"):
        Wishes(accuracy=0.1).depths(table, ("F", "T"))


@pytest.mark.parametrize(
    ("wishes", "table", "said"),
    [
        (Wishes("TT"), TABLE, "skip=TT is not served: expected one of F, T"),
        (Wishes(accuracy=0.67), TABLE, "accuracy=0.67: expected percent, such as accuracy=67"),
        (Wishes(accuracy=80.5), TABLE, "accuracy=80.5: the best depth, F, has accuracy 80.00 %"),
        (Wishes(accuracy=50.0), None, "quality was not measured; set a skip"),
    ],
)
def test_what_cannot_be_had_is_refused(wishes: Wishes, table: ad.TradeOffs | None, said: str) -> None:
    with pytest.raises(Problem, match=said):
        wishes.depths(table, ("F", "T"))
