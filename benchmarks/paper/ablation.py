"""Table 3: what distillation and skip-aware norms add, and the feature term."""

import sys
from typing import Any

import images
from command import command, read
from plans import accuracies, adaptive, compared, comparison, longer, markdown, of_all_seeds, said
from run import Place, Run, seeded, trained, weights_of_all_seeds

import adaptive_depth as ad

CELLS = {
    "distillation, skip-aware norms": adaptive(),
    "distillation, one set of norms": adaptive(skip_aware_norms=False),
    "labels, skip-aware norms": adaptive(learn_from="labels"),
    "labels, one set of norms": adaptive(learn_from="labels", skip_aware_norms=False),
}
FEATURES = {
    "distillation, skip-aware norms, feature term 0.1": adaptive(feature_weight=0.1),
    "distillation, skip-aware norms, feature term 1": adaptive(feature_weight=1.0),
}
ONE_SET = "one set of norms and of statistics"


def plan(place: Place) -> list[Run]:
    return of_all_seeds(*_cases(place).values())(place)


def _cases(place: Place) -> dict[str, Run]:
    """The four cells and the feature term; the cells with the budget of the main result, too."""
    return CELLS | FEATURES | longer(CELLS, place)


def summary(place: Place) -> dict[str, Any]:
    """Accuracies; of networks with one set of norms also those with one set of statistics.

    In the library, one set of norms has two sets of running statistics. Statistics do not count in training, so that
    one set would have gathered what the two have on average.
    """
    former = read("ablation", place).get(ONE_SET, {}) if (place.results / "ablation.json").exists() else {}
    singles = {
        case: run
        for case, run in _cases(place).items()
        if ("skip_aware_norms", False) in run.changes and accuracies(run, place)
    }
    return {
        "cases": compared(_cases(place), place),
        ONE_SET: former
        | {case: _with_one_set(run, place) for case, run in singles.items() if weights_of_all_seeds(run, place)},
    }


def _with_one_set(run: Run, place: Place) -> dict[str, list[float]]:
    """Accuracies of super-net and base-net, a number a seed."""
    test, rows = images.in_order(place.part("test")), []
    for each in seeded(run, place.setting):
        network = trained(each, place)
        assert isinstance(network, ad.AdaptiveNetwork)
        one_set_of_statistics(network)
        rows.append(ad.evaluate(network, test, (network.skips[0], network.skips[-1])).values())
    deep, shallow = zip(*rows, strict=True)
    return {"super-net": list(deep), "base-net": list(shallow)}


def one_set_of_statistics(network: ad.AdaptiveNetwork) -> None:
    """Both sets of running statistics become their mean."""
    state = network.state_dict()
    for name in list(state):
        own, _, statistic = name.rpartition(".")
        if own.startswith("skip_norms.") and statistic in ("running_mean", "running_var"):
            other = f"model.{name.removeprefix('skip_norms.')}"
            state[name] = state[other] = (state[name] + state[other]) / 2
    network.load_state_dict(state)


def table(found: dict[str, Any]) -> str:
    rows = [[case, said(each["super-net"]), said(each["base-net"])] for case, each in found[ONE_SET].items()]
    one = markdown([f"{ONE_SET}, the base-net learns from", "super-net", "base-net"], rows)
    return f"{comparison(found['cases'], 'the base-net learns from')}\n\n{one}"


if __name__ == "__main__":
    command(sys.modules[__name__])
