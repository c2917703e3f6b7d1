"""Beyond the paper: what a schedule of passes costs by the clock, against super-net and base-net trained alone."""

import sys
from typing import Any

from command import command
from networks import NETWORKS
from plans import markdown
from run import Place, Run
from step_times import of_schedules

FAMILIES = ("resnet", "mobilenet_v2", "vit", "swin")
PATTERNS = ("SBSBR", "SB")
ROUNDS = 15


def plan(place: Place) -> list[Run]:  # noqa: ARG001 - as every experiment's
    return []


def summary(place: Place) -> dict[str, Any]:
    """By family and pattern, the ratio from one interleaved run, per loaded batch."""
    rounds = 3 if place.setting.name == "quick" else ROUNDS
    return {"families": {name: of_schedules(name, PATTERNS, rounds, place) for name in FAMILIES}}


def table(found: dict[str, Any]) -> str:
    rows = [
        [NETWORKS[name].title.split(",")[0], *(_said(each[pattern]) for pattern in PATTERNS)]
        for name, each in found["families"].items()
    ]
    return markdown(["epoch time relative to super-net plus base-net, each trained alone", *PATTERNS], rows)


def _said(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


if __name__ == "__main__":
    command(sys.modules[__name__])
