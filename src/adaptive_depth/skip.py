"""A skip configuration: which stages leave out their skippable sub-path.

Written as in the paper, one letter per stage: ``"T"`` skips, ``"F"`` does not. ``"FFFF"`` is the super-net,
``"TTTT"`` the base-net; a network of N stages has 2^N sub-networks.
"""

from collections.abc import Iterable, Sequence
from itertools import product

from .errors import SkipError

Skip = str | Sequence[bool]


def parse_skip(skip: Skip, stages: int) -> str:
    """Return the canonical letters of `skip` for a network of `stages` stages.

    Arguments:
        skip: one letter or one boolean (True skips) per stage.
        stages: how many stages the network has.

    Raises:
        SkipError: wrong length, other letters, or elements that are not booleans.

    Example:
        >>> parse_skip([True, True, False, False], 4)
        'TTFF'
    """
    example = f"{'T' * (stages // 2)}{'F' * (stages - stages // 2)}"
    fix = f"expected one capital T (skip) or F (do not) for each of {stages} stages, such as {example!r}"
    if isinstance(skip, str):
        letters = skip
        if set(letters) - set("TF"):
            wrong = "".join(sorted(set(letters) - set("TF")))
            raise SkipError(f"skip {skip!r} has the letters {wrong!r}: {fix}")
    elif isinstance(skip, Iterable):  # not Sequence: arrays get the clearer error below
        flags = list(skip)
        if not all(isinstance(flag, bool) for flag in flags):
            raise SkipError(f"skip {skip!r} has elements that are not booleans: {fix}")
        letters = "".join("T" if flag else "F" for flag in flags)
    else:
        raise SkipError(f"skip {skip!r} is a {type(skip).__name__}: {fix}")
    if len(letters) != stages:
        raise SkipError(
            f"skip {skip!r} is for {len(letters)} stage{'s' * (len(letters) != 1)}, but the network has {stages}: {fix}"
        )
    return letters


def all_skips(stages: int) -> tuple[str, ...]:
    """Every skip configuration, super-net first, base-net last; neighbours share long prefixes.

    Example:
        >>> all_skips(2)
        ('FF', 'FT', 'TF', 'TT')
    """
    return tuple("".join(letters) for letters in product("FT", repeat=stages))
