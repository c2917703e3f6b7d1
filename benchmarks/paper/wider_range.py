"""Beyond the paper: what smaller images and a finer cut add below the base-net and between the depths."""

import sys
from typing import Any

from command import command
from plans import SMALLER, accuracies, adaptive, compared, comparison, found_by_seed, macs, markdown, of_all_seeds, said
from run import Place, Run

TRAINED = {
    "as usual": adaptive(),
    "at three resolutions": Run("resnet", sizes=(1.0, *SMALLER), also_at=SMALLER),
}
CUTS = {"2 + 2": Run("resnet-long", mandatory=2), "1 + 1 + 1 + 1": Run("resnet-long", fine=True)}


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*TRAINED.values(), *CUTS.values())(place)


def summary(place: Place) -> dict[str, Any]:
    size, resolutions = place.setting.size, []
    for title, run in TRAINED.items():
        for part in (1.0, *SMALLER):
            found = found_by_seed(run, place)
            rows = [each["accuracy"] if part == 1 else each["at other resolutions"][str(part)] for each in found]
            cost = list(macs(place, run, round(part * size)).values())
            if rows:
                ends = [list(row.values()) for row in rows]
                resolutions.append(
                    {
                        "trained": title,
                        "size": round(part * size),
                        "macs": [cost[0], cost[-1]],
                        "super-net": [row[0] for row in ends],
                        "base-net": [row[-1] for row in ends],
                    }
                )
    cuts = compared(CUTS, place)
    for row in cuts:
        row["sub-networks"] = len(accuracies(CUTS[row["case"]], place))
    return {"resolutions": resolutions, "cuts": cuts}


def table(found: dict[str, Any]) -> str:
    rows = [
        [
            row["trained"],
            f"{row['size']} px",
            *(f"{macs / 1e6:.2f}" for macs in row["macs"]),
            said(row["super-net"]),
            said(row["base-net"]),
        ]
        for row in found["resolutions"]
    ]
    head = ["trained", "images", "MMACs, super-net", "base-net", "accuracy, super-net", "base-net"]
    cuts = comparison(found["cuts"], "cut of four blocks", ("sub-networks", lambda row: str(row["sub-networks"])))
    return f"{markdown(head, rows)}\n\n{cuts}"


if __name__ == "__main__":
    command(sys.modules[__name__])
