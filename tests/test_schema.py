"""`schema.py`: values as JSON and back, and one clear error for what does not fit."""

import json
from dataclasses import dataclass, field

import pytest

from adaptive_depth.errors import MeasurementError, TrainingError
from adaptive_depth.schema import Plain, from_plain, to_plain


@dataclass(frozen=True)
class Inner(Plain):
    name: str
    pair: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Outer(Plain):
    reading_error = MeasurementError

    inner: tuple[Inner, ...]
    rates: dict[int, float] = field(default_factory=dict)
    note: str | None = None

    def __post_init__(self) -> None:
        if not self.inner:
            raise MeasurementError("none inside: expected one or more")


VALUE = Outer((Inner("a"), Inner("b", (3, 4))), {8: 0.5}, None)


def test_a_value_survives_json() -> None:
    plain = {"inner": [{"name": "a", "pair": [1, 2]}, {"name": "b", "pair": [3, 4]}], "rates": {"8": 0.5}, "note": None}
    assert to_plain(VALUE) == VALUE.to_json() == plain
    assert Outer.from_json(json.loads(json.dumps(plain))) == VALUE
    assert Outer.from_json({"inner": plain["inner"][:1]}) == Outer((Inner("a"),))
    assert from_plain(tuple[Inner, ...], plain["inner"], TrainingError) == VALUE.inner


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"inner": [{"name": "a"}], "more": 1}, "more: Unexpected keyword argument"),
        ({}, "inner: Field required"),
        ({"inner": [{"name": 3}]}, "inner.0.name: Input should be a valid string"),
        ({"inner": [{"name": "a", "pair": [1]}]}, "inner.0.pair.1: Field required"),
        ({"inner": [{"name": "a", "odd": 0}]}, "inner.0.odd: Unexpected keyword argument"),
        ({"inner": [{"name": "a"}], "rates": {"many": 1}}, "rates.many.*valid integer"),
        ("inner", "^outer 'inner': "),
        (None, "^outer None: "),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(content: object, said: str) -> None:
    with pytest.raises(MeasurementError, match=said) as caught:
        Outer.from_json(content)
    expected = "; expected an object with inner, rates, note (Inner: name, pair)"
    assert str(caught.value).endswith(expected)
    assert "\n" not in str(caught.value)


def test_what_a_class_says_of_its_values_is_kept() -> None:
    with pytest.raises(MeasurementError, match=r"^none inside: expected one or more$"):
        Outer.from_json({"inner": []})
    with pytest.raises(TrainingError, match=r"^none inside: expected one or more$"):
        from_plain(Outer, {"inner": []}, TrainingError)
    with pytest.raises(TrainingError, match=r"^several 3: .*; expected objects with name, pair$"):
        from_plain(tuple[Inner, ...], 3, TrainingError, "several")
