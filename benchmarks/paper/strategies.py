"""Table 4: random teachers and students against the super-net that teaches the base-net."""

import sys
from typing import Any

from command import command
from plans import adaptive, compared, comparison, longer, of_all_seeds
from run import Place, Run

CASES = {
    "super-net teaches base-net": adaptive(),
    "random teacher": adaptive(teacher="random"),
    "random student": adaptive(student="random"),
    "random teacher and student": adaptive(teacher="random", student="random"),
}
LONGER = ("super-net teaches base-net", "random student")  # also with the budget of the main result


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*_cases(place).values())(place)


def _cases(place: Place) -> dict[str, Run]:
    return CASES | longer({case: CASES[case] for case in LONGER}, place)


def summary(place: Place) -> dict[str, Any]:
    return {"cases": compared(_cases(place), place)}


def table(found: dict[str, Any]) -> str:
    return comparison(found["cases"], "strategy")


if __name__ == "__main__":
    command(sys.modules[__name__])
