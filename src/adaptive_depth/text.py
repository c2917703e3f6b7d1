"""Plain values as text."""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap

_FURTHER = 3  # extra digits at most, to distinguish values
_WIDTH = 80


def table(columns: Iterable[tuple[str, str, Sequence[str]]]) -> list[str]:
    """Lines of a table, the titles first: at most 80 characters each, the usual width of a terminal.

    If they do not fit, long titles are wrapped; columns that still do not fit follow in a second table below, which
    repeats the first column.

    Arguments:
        columns: title, alignment and least width (`">4"`), cells.

    Example:
        >>> table([("skip", "<6", ["FF"]), ("ms", ">4", ["1.5"])])
        ['skip     ms', 'FF      1.5']
    """
    asked = [*columns]
    plain = [_column(*column, lines=1) for column in asked]
    if _width(plain) <= _WIDTH:
        return _lines(plain)
    names, *others = [_column(*column, lines=2) for column in asked]
    blocks = [[names]]
    for column in others:
        if _width([*blocks[-1], column]) > _WIDTH:
            blocks.append([names])
        blocks[-1].append(column)
    return [line for block in blocks for line in _lines(block)]


def _column(title: str, form: str, cells: Sequence[str], lines: int) -> list[str]:
    """One column, all lines equally wide: the title in at most `lines`, as narrow as that allows, then the cells."""
    width = max(int(form[1:]), *map(len, cells), 1)
    while True:
        head = wrap(title, width, break_long_words=False, break_on_hyphens=False) or [""]
        if len(head) <= lines and max(map(len, head)) <= width:
            return [f"{line:{form[0]}{width}}" for line in (*head, *cells)]
        width += 1


def _width(columns: Sequence[list[str]]) -> int:
    return sum(len(column[-1]) + 1 for column in columns) - 1


def _lines(columns: Sequence[list[str]]) -> list[str]:
    height = max(map(len, columns))  # titles are at the bottom of the head
    level = [[" " * len(column[-1])] * (height - len(column)) + column for column in columns]
    return [" ".join(line).rstrip() for line in zip(*level, strict=True)]


def or_dash(value: float | None, digits: int = 2) -> str:
    """The number, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def figures(values: Sequence[float | None], least: int = 2) -> list[str]:
    """Numbers of one column, with a dash for None; different numbers look different.

    Example:
        >>> figures([12.3412, 12.3444, 9.0, None]), figures([1.5, 2.5])
        (['12.341', '12.344', '9.000', '-'], ['1.50', '2.50'])
    """
    digits = digits_apart([value for value in values if value is not None], least)
    return [or_dash(value, digits) for value in values]


def digits_apart(values: Iterable[float], least: int) -> int:
    """The number of decimals needed to distinguish values, but at least `least`.

    Values that are the same with three more digits than `least` count as equal.

    Example:
        >>> digits_apart([12.3412, 12.3444], least=2), digits_apart([12.3, 12.3 + 1e-9, 9.0], least=2)
        (3, 2)
    """
    known = [*values]
    most = least + _FURTHER

    def told(digits: int) -> int:
        return len({f"{value:.{digits}f}" for value in known})

    return next(digits for digits in range(least, most + 1) if told(digits) == told(most))


def printable(text: str) -> str:
    """A user's name on one line: unprintable characters, which fonts and XML reject, become spaces.

    Example:
        >>> printable("a\\nb\\x07\\ud800c é")
        'a b  c é'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text)


def left_out_lines(reasons: Mapping[str, str]) -> list[str]:
    """One line for each reason why depths cannot be used.

    Example:
        >>> left_out_lines({"FT": "no attention layer is left", "TT": "no attention layer is left"})
        ['Left out: FT, TT (no attention layer is left).']
    """
    skips: dict[str, list[str]] = {}
    for skip, reason in reasons.items():
        skips.setdefault(reason, []).append(skip)
    return [f"Left out: {', '.join(sorted(those))} ({reason.removesuffix('.')})." for reason, those in skips.items()]
