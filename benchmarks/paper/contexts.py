"""Beyond the paper: all sub-networks before and after `calibrate`, over training: when do the contexts grow alike?"""

import sys
from statistics import mean
from typing import Any

from command import command
from plans import adaptive, found_by_seed, long, markdown, of_all_seeds, said
from run import Found, Place, Run, epochs

CASES: dict[str, Run] = {
    f"{title}, feature term {weight:g}": adaptive(name, **({"feature_weight": weight} if weight else {}))
    for name, title in (("resnet", "ResNet (BatchNorm)"), ("vit", "ViT (LayerNorm)"))
    for weight in (0.0, 0.1, 1.0)
}


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*CASES.values(), *_longer(place).values())(place)


def _longer(place: Place) -> dict[str, Run]:
    """The main result's own, which go on longer."""
    return {title: long(run, place.setting) for title, run in CASES.items() if not run.changes}


def summary(place: Place) -> dict[str, Any]:
    """By case and epoch, a number a seed: mean of super-net and base-net; worst of all, before and after."""
    cases: dict[str, Any] = {}
    for title, run in CASES.items():
        found = found_by_seed(run, place)
        for epoch in map(str, place.setting.looks[:-1]) if found else ():
            cases.setdefault(title, {})[epoch] = _gaps([each["after epochs"][epoch] for each in found])
        for last in dict.fromkeys((run, _longer(place).get(title, run))):
            if found := found_by_seed(last, place):
                cases.setdefault(title, {})[str(epochs(last.budget, place.setting))] = _gaps(found)
    return {"cases": cases}


def _gaps(found: list[Found]) -> dict[str, list[float]]:
    before = [each.get("before calibrate", each["accuracy"]) for each in found]
    after = [each["accuracy"] for each in found]
    return {
        "ends": [mean((values[0], values[-1])) for values in (list(each.values()) for each in after)],
        "worst before": [min(each.values()) for each in before],
        "worst after": [min(each.values()) for each in after],
    }


def table(found: dict[str, Any]) -> str:
    rows = []
    for case, by_epoch in found["cases"].items():
        title = case
        for epoch, each in by_epoch.items():
            gap = mean(each["ends"]) - mean(each["worst before"])
            rows.append(
                [title, epoch, said(each["ends"]), said(each["worst before"]), said(each["worst after"]), f"{gap:.1f}"]
            )
            title = ""
    return markdown(
        ["network", "epochs", "super-net and base-net", "worst before `calibrate`", "worst after", "gap before"], rows
    )


if __name__ == "__main__":
    command(sys.modules[__name__])
