"""Figures 3, 5, 8 and Equations 5, 6: is the reason for all depths being good the one that the paper gives?"""

import sys
from dataclasses import replace
from statistics import mean
from typing import Any

import images
from command import command, read
from plans import accuracies, adaptive, alone, markdown, of_all_seeds, passes, said
from run import Place, Run, seeded, trained, weights_of_all_seeds

import adaptive_depth as ad

MEASURED_ON = 2000  # test images
MAPPED = 200  # of these: class-activation maps
SHOWN = 4  # in a picture that stays on this machine, for it shows photographs
LIT = 0.5  # of the brightest place of a map


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*(run for pair in _pairs(place).values() for run in pair))(place)


def _pairs(place: Place) -> dict[str, tuple[Run, Run]]:
    """The adaptive network and the one trained alone, by title; of the ResNet after a shorter training, too.

    Trained by Algorithm 1, as in the paper, and with a step for each sub-network.
    """
    every, last = place.setting.budgets, place.setting.budgets[-1:]
    # A step each: the ViT has its numbers at the smaller budget, for the weights of the larger one were not kept.
    methods = {
        "": (adaptive, {"resnet": every, "vit": last}),
        ", a step each": (passes, {"resnet": last, "vit": every}),
    }
    return {
        f"{name}, budget {budget:.0%}{how}": (replace(ours(name), budget=budget), replace(alone(name), budget=budget))
        for how, (ours, budgets) in methods.items()
        for name, tried in budgets.items()
        for budget in tried
    }


def summary(place: Place) -> dict[str, Any]:
    """By family, a number a seed: what `analyze` measures of the network, beside the one that was trained alone.

    What was measured stays where the weights, which are kept apart from results, are no longer there.
    """
    pairs = _pairs(place).items()
    complete = {title: pair for title, pair in pairs if all(accuracies(run, place) for run in pair)}
    former = read("rationale", place)["networks"] if (place.results / "rationale.json").exists() else {}
    here = [title for title, pair in complete.items() if all(weights_of_all_seeds(run, place) for run in pair)]
    return {
        "networks": {
            title: _measured(*pair, place) if title in here else former[title]
            for title, pair in complete.items()
            if title in here or title in former
        }
    }


def _measured(ours: Run, single: Run, place: Place) -> dict[str, Any]:
    test = place.part("test")
    test = images.Part(test.images[:MEASURED_ON], test.labels[:MEASURED_ON])
    rows: dict[str, list[Any]] = {}
    for run, theirs in zip(seeded(ours, place.setting), seeded(single, place.setting), strict=True):
        network = trained(run, place)
        assert isinstance(network, ad.AdaptiveNetwork)
        batches = place.batches(run)
        ad.calibrate(network, batches, limit=place.setting.calibrated_on // batches.batch_size)
        found = ad.analyze(network, images.in_order(test), compare=trained(theirs, place))
        mapped = images.normalised(test.images[:MAPPED])
        maps = ad.class_activation_maps(network, mapped)
        if run.method == "adaptive" and run.seed == 0 and run.budget == place.setting.budgets[-1]:
            ad.plot_transformations(found, place.results / f"transformations_{run.network}.png")
            few = {skip: each[:SHOWN] for skip, each in maps.items()}
            ad.plot_maps(mapped[:SHOWN], few, place.weights(run).with_name(f"maps_{run.network}.png"))
        deep, shallow = (float((each > LIT).mean()) for each in maps.values())
        lit = {"part of an image that the super-net's map lights": deep, "the base-net's": shallow}
        for what, value in (_numbers(found) | lit).items():
            rows.setdefault(what, []).append(value)
    return rows


def _numbers(found: ad.Analysis) -> dict[str, float]:
    def ratio(name: str, *, skippable: bool) -> float:
        values = [getattr(block, name) for block in found.blocks if block.skippable is skippable]
        return mean(value for value in values if value is not None)

    predicted = sum(stage.predicted for stage in found.stages)
    return {
        "‖F‖/‖h‖ of mandatory blocks": ratio("ratio", skippable=False),
        "the same, trained alone": ratio("alone", skippable=False),
        "‖F‖/‖h‖ of skippable blocks": ratio("ratio", skippable=True),
        "these, trained alone": ratio("alone", skippable=True),
        "change of the loss by skippable sub-paths, first order": predicted,
        "its real change": sum(stage.change for stage in found.stages),
        "cosine of F and -dL/dh": mean(stage.cosine for stage in found.stages if stage.cosine is not None),
        "KL of the stages' features": mean(stage.divergence for stage in found.stages),
    }


def table(found: dict[str, Any]) -> str:
    networks = found["networks"]
    what = list(next(iter(networks.values()), {}))
    rows = [[row, *(said(each[row], digits=3) for each in networks.values())] for row in what]
    return markdown(["mean over blocks or stages", *networks], rows)


if __name__ == "__main__":
    command(sys.modules[__name__])
