"""Plain values as text: what differs differs in print."""

import pytest

from adaptive_depth.text import digits_apart, figures, table


@pytest.mark.parametrize(
    ("values", "least", "digits"),
    [
        ([], 2, 2),
        ([12.3412], 2, 2),
        ([12.34, 12.34, 9.0], 2, 2),
        ([12.3412, 12.3444], 2, 3),  # 12.341 and 12.344
        ([12.34121, 12.34124], 2, 5),
        ([12.341210, 12.341214], 2, 2),  # as far as five digits tell, equal
        ([12.341210, 12.341214, 12.344], 2, 3),
        ([4000.0, 4000.4], 0, 1),
    ],
)
def test_as_few_digits_as_tell_values_apart(values: list[float], least: int, digits: int) -> None:
    assert digits_apart(values, least) == digits


def test_a_column_has_the_same_digits_throughout() -> None:
    assert figures([1.0, None, 1.0004, 2.5]) == ["1.0000", "-", "1.0004", "2.5000"]


# -- tables -------------------------------------------------------------------------------------------------------


def test_a_narrow_table_keeps_its_titles_in_one_line() -> None:
    assert table([("skip", "<6", ["FF"]), ("GMACs a sample", ">4", ["1.5"])]) == [
        "skip   GMACs a sample",
        "FF                1.5",
    ]


def test_long_titles_are_wrapped_where_the_table_would_not_fit() -> None:
    lines = table([("skip", "<6", ["FF"]), *[("GMACs a sample", ">4", ["1.5"])] * 8])
    assert lines == [
        "      " + " GMACs a" * 8,
        "skip  " + "  sample" * 8,
        "FF    " + "     1.5" * 8,
    ]


def test_columns_that_do_not_fit_follow_below_with_the_first_one() -> None:
    lines = table([("skip", "<6", ["FF"]), *[("memory", ">9", [str(number)]) for number in range(9)]])
    assert [line.split() for line in lines] == [
        ["skip", *["memory"] * 7],
        ["FF", *"0123456"],
        ["skip", "memory", "memory"],
        ["FF", "7", "8"],
    ]
    assert max(map(len, lines)) <= 80
