"""Quality as text, and back."""

import pytest

from adaptive_depth.errors import TrainingError
from adaptive_depth.quality import Quality


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("F1 (%, higher is better)", Quality("F1", "%")),
        ("RMSE (km/h, lower is better)", Quality("RMSE", "km/h", higher_is_better=False)),
        (" mean error ( lower is better ) ", Quality("mean error", higher_is_better=False)),
    ],
)
def test_a_text_with_a_direction(text: str, expected: Quality) -> None:
    assert Quality.from_text(text) == expected
    assert Quality.from_text(str(expected), higher_is_better=True) == expected


def test_the_direction_comes_from_elsewhere_where_the_text_has_none() -> None:
    assert Quality.from_text("F1 (%)", higher_is_better=True) == Quality("F1", "%")
    assert Quality.from_text("MAE", higher_is_better=False) == Quality("MAE", higher_is_better=False)
    with pytest.raises(TrainingError, match="'MAE' does not say whether higher or lower is better: expected NAME"):
        Quality.from_text("MAE")


@pytest.mark.parametrize(
    "text", ["", "(%)", "F1 (%", "F1 (a, b)", "F1 (higher is better, lower is better)", "F1 (%) of some"]
)
def test_what_is_no_quality(text: str) -> None:
    with pytest.raises(TrainingError, match=r"expected NAME, NAME \(UNIT\) or NAME \(UNIT, lower is better\)"):
        Quality.from_text(text, higher_is_better=True)


@pytest.mark.parametrize("arguments", [(3, "m"), ("MAE", None), ("MAE", "m", "lower"), ("MAE", "m", 0)])
def test_a_direction_is_true_or_false(arguments: tuple) -> None:
    """The word "lower" counts as true: the worst depth would be chosen."""
    with pytest.raises(TrainingError, match=r"expected a name, a unit and True or False, such as Quality\("):
        Quality(*arguments)
