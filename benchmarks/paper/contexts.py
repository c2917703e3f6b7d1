"""Beyond the paper: all sub-networks before and after `calibrate`, over training: when do the contexts grow alike?"""

import sys
from statistics import mean
from typing import Any

from command import command
from plans import adaptive, found_by_seed, markdown, of_all_seeds, said
from run import Place, Run

CASES = {
    f"{title}, feature term {weight:g}": adaptive(name, **({"feature_weight": weight} if weight else {}))
    for name, title in (("resnet", "ResNet (BatchNorm)"), ("vit", "ViT (LayerNorm)"))
    for weight in (0.0, 0.1, 1.0)
}


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*CASES.values())(place)


def summary(place: Place) -> dict[str, Any]:
    """By case and epoch, a number a seed: mean of super-net and base-net; worst of all, before and after."""
    cases: dict[str, Any] = {}
    for title, run in CASES.items():
        found = found_by_seed(run, place)
        epochs = [*map(str, place.setting.looks[:-1]), str(place.setting.epochs)]
        for epoch in epochs if found else []:
            looks = [each["after epochs"].get(epoch, each) for each in found]
            before = [look.get("before calibrate", look["accuracy"]) for look in looks]
            after = [look["accuracy"] for look in looks]
            cases.setdefault(title, {})[epoch] = {
                "ends": [mean((values[0], values[-1])) for values in (list(each.values()) for each in after)],
                "worst before": [min(each.values()) for each in before],
                "worst after": [min(each.values()) for each in after],
            }
    return {"cases": cases}


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
