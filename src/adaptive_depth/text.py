"""Plain values as text."""

from collections.abc import Iterable, Mapping, Sequence

_FURTHER = 3  # digits at most, to tell values apart


def table(columns: Iterable[tuple[str, str, Sequence[str]]]) -> list[str]:
    """Lines of a table, the titles first.

    Arguments:
        columns: title, alignment and least width (`">8"`), cells.

    Example:
        >>> table([("skip", "<6", ["FF"]), ("ms", ">4", ["1.5"])])
        ['skip     ms', 'FF      1.5']
    """
    padded = []
    for title, form, cells in columns:
        width = max(int(form[1:]), *(len(cell) for cell in (title, *cells)))
        padded.append([f"{cell:{form[0]}{width}}" for cell in (title, *cells)])
    return [" ".join(line).rstrip() for line in zip(*padded, strict=True)]


def or_dash(value: float | None, digits: int = 2) -> str:
    """The number, or a dash for one that is not there."""
    return "-" if value is None else f"{value:.{digits}f}"


def figures(values: Sequence[float | None], least: int = 2) -> list[str]:
    """Numbers of one column, with a dash for those that are not there: in print those differ that differ.

    Example:
        >>> figures([12.3412, 12.3444, 9.0, None]), figures([1.5, 2.5])
        (['12.341', '12.344', '9.000', '-'], ['1.50', '2.50'])
    """
    digits = digits_apart([value for value in values if value is not None], least)
    return [or_dash(value, digits) for value in values]


def digits_apart(values: Iterable[float], least: int) -> int:
    """So many digits behind the point, and as few as that takes, tell values apart.

    Values that three digits more than the `least` do not tell apart are taken for equal.

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
    """A name of the user's in one line: what cannot be shown, and no font or XML takes, is a space.

    Example:
        >>> printable("a\\nb\\x07\\ud800c é")
        'a b  c é'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text)


def left_out_lines(reasons: Mapping[str, str]) -> list[str]:
    """Of depths that cannot be used, a line for each reason.

    Example:
        >>> left_out_lines({"FT": "no attention layer is left", "TT": "no attention layer is left"})
        ['Left out: FT, TT (no attention layer is left).']
    """
    skips: dict[str, list[str]] = {}
    for skip, reason in reasons.items():
        skips.setdefault(reason, []).append(skip)
    return [f"Left out: {', '.join(sorted(those))} ({reason.removesuffix('.')})." for reason, those in skips.items()]
