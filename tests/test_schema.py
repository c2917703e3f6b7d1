"""`schema.py`: values as JSON and back, and one clear error for what does not fit."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from adaptive_depth import schema
from adaptive_depth.errors import AdaptiveDepthError, DataError, MeasurementError, TrainingError
from adaptive_depth.schema import (
    Form,
    Letters,
    NotNegative,
    Open,
    Plain,
    Positive,
    from_plain,
    parse_json,
    parse_yaml,
    read_json,
    read_yaml,
    to_plain,
)


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


# -- what values may be ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed(Open):
    reading_error = MeasurementError

    skip: Letters
    ms: Positive
    mb: NotNegative | None = None
    device: dict[str, Any] = field(default_factory=dict)


def test_entries_of_the_users_own_are_left_out() -> None:
    assert Timed.from_json({"skip": "TF", "ms": 2, "mb": 0, "mine": [1]}) == Timed("TF", 2.0, 0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ms": -1}, "ms: Input should be a number above 0, and below 1e15; received -1"),
        ({"ms": 0}, "ms: Input should be a number above 0, and below 1e15; received 0"),
        ({"ms": 1e308}, r"ms: Input should be a number above 0, and below 1e15; received 1e\+308"),
        ({"ms": float("nan")}, "^timed holds the number nan, where finite numbers are expected"),
        ({"device": {"clock": [float("-inf")]}}, "^timed holds the number -inf, where finite numbers are expected"),
        ({"device": {"threads": 10**30}}, "^timed holds a whole number of more than 64 bits"),
        ({"ms": True}, "ms: Input should be a valid number; received True"),
        ({"ms": "2"}, "ms: Input should be a valid number; received '2'"),
        ({"mb": -0.5}, "mb: Input should be a number of at least 0"),
        ({"skip": ""}, "skip: Input should be a skip: one letter per stage, T or F, such as 'TTFF'; received ''"),
        ({"skip": "TTX"}, "skip: Input should be a skip"),
        ({"device": {1.5: 1}}, "^timed holds an entry whose name is not a text"),
        ({"device": {"x": {1, 2}}}, "^timed holds a set, where texts and numbers are expected"),
    ],
)
def test_a_number_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        Timed.from_json({"skip": "TF", "ms": 2.0} | change)


def test_an_error_is_short_whatever_was_received() -> None:
    for content in ({"skip": "T" * 10**6}, {"x" * 10**6: 1}, ["x" * 1000] * 1000, {"skip": "\ud800", "ms": 1}):
        with pytest.raises(MeasurementError) as caught:
            Timed.from_json(content)
        assert len(str(caught.value)) < 3000
        assert str(caught.value).encode()
    assert len(str(DataError("a" * 10**6))) < 3000
    assert str(DataError("a \ud800")) == "a \\ud800"


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        (b"\xff\xfe\x00", "codec"),
        ("[NaN]", "holds the number nan, where finite numbers are expected"),
        ('{"a": [1e999]}', "holds the number inf, where finite numbers are expected"),
        ("[" * 100 + "]" * 100, "holds values nested more than 64 levels deep"),
        ("[" * 100_000, "recursion"),
        ("9" * 5000, "4300 digits"),
        (" " * (schema.MOST_BYTES + 1), "has more than 16,777,216 bytes"),
    ],
    ids=range(9),
)
def test_json_that_is_none(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"a.json .*{said}.*: make it anew"):
        read_json(file, DataError, "make it anew")
    with pytest.raises(DataError, match=f"^it .*{said}.*: make it anew"):
        parse_json(content, DataError, "it", "make it anew")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "x", "x does not exist: mend"), (tmp_path, "cannot be read .*: mend")):
        for read in (read_json, read_yaml):
            with pytest.raises(DataError, match=said):
                read(path, DataError, "mend")


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else '1'}]\n" for n in range(12))  # 9^11 values
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, r"it has the alias \*a0: expected the value itself"),
        (MERGES, r"it has the alias \*m0: expected the value itself"),
        ("&a [*a]", r"it has the alias \*a"),
        ("[" * 3000, "recursion"),
        ("a: !!python/object/apply:os.system ['x']", "could not determine a constructor"),
        ("a: !!bool x", "cannot be read"),
        ("a: !!float ''", "cannot be read"),
        ("a: 2023-99-99", "month must be in 1..12"),
        ("a: 2023-01-01", "holds a date, where texts and numbers are expected"),
        ("a: .inf", "holds the number inf"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("# " + "x" * (1 << 17), "has more than 131,072 bytes"),
    ],
    ids=range(12),
)
def test_yaml_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(content)
    start = time.perf_counter()
    with pytest.raises(TrainingError, match=said):
        read_yaml(file, TrainingError, "mend")
    assert time.perf_counter() - start < 10  # milliseconds, where nothing else runs
    assert parse_yaml("{a: [1, 1e-4, x], b: null}", TrainingError, "", "") == {"a": [1, "1e-4", "x"], "b": None}


def test_a_form_is_checked_before_the_fields() -> None:
    form = Form("mine", 2, "a file of mine", DataError)
    assert form.check({"format": "mine", "version": 1, "a": 3}, "x.json")["a"] == 3
    for content, said in (
        ([], "^x.json was not written by this library: expected a file of mine"),
        ({"format": "other", "version": 1}, "was not written by this library"),
        ({"format": "mine"}, "^x.json is damaged: its version is None, where a number is expected"),
        ({"format": "mine", "version": True}, "its version is True"),
        ({"format": "mine", "version": 0}, "its version is 0"),
        ({"format": "mine", "version": 3}, "^x.json has version 3, but this library reads up to 2: pip install"),
    ):
        with pytest.raises(AdaptiveDepthError, match=said):
            form.check(content, "x.json")


def test_a_list_that_holds_itself_ends() -> None:
    endless: list[Any] = []
    endless += [endless] * 2
    with pytest.raises(MeasurementError, match="nested more than 64 levels deep"):
        Timed.from_json({"skip": "TF", "ms": 1.0, "device": {"x": endless}})


@pytest.mark.parametrize("parse", [schema.parse_json, schema.parse_yaml])
def test_a_name_that_stands_twice_is_no_choice_of_ours(parse) -> None:
    with pytest.raises(DataError, match="it has 'lr' twice, where one is expected"):
        parse('{"a": {"lr": 1, "lr": 2}}', DataError, "x", "mend it")
