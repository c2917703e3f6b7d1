"""Beyond the paper: what matters in a schedule of passes, one thing at a time, on validation images."""

import sys
from dataclasses import replace
from typing import Any

import images
from ablation import ONE_SET, one_set_of_statistics
from command import command, read
from plans import compared, comparison, passes, said
from run import Place, Run, trained, weights_of_all_seeds
from setting import SETTINGS

import adaptive_depth as ad

SINGLE_NORMS = "one set of norms"
Tries = dict[str, Run]


def _try(**changes: Any) -> Run:
    return replace(passes(**changes), measured_on="validation")


def _longer(drawing: str = "", **changes: Any) -> Run:
    return replace(_try(**changes), budget=SETTINGS["night"].budgets[-1], drawing=drawing)


TRIED: dict[str, Tries] = {
    "pattern": {
        "SBSBR, the default": _try(),
        "SB": _try(passes="SB"),
        "SBR": _try(passes="SBR"),
        "SRB": _try(passes="SRB"),
        "SBSBSBSBR": _try(passes="SBSBSBSBR"),
    },
    "delay, in batches": {
        **{f"{delay}": _try(delay=delay) for delay in (0, 1, 4)},
        "16, the default": _try(),
        "64": _try(delay=64),
        "fresh images instead, as many steps": replace(_try(fresh=True), budget=2.5),
    },
    "learning rate": {
        "0.025": _try(lr=0.025),
        "0.05, the recipe's": _try(),
        "0.1": _try(lr=0.1),
        "0.2": _try(lr=0.2),
    },
    "the teacher's share": {
        "0, the default": _try(),
        "0.5 from half-way": _try(teacher_share=0.5),
        "0.5 from the start": _try(teacher_share=0.5, teacher_start=0.0),
        "1 in the last quarter": _try(teacher_share=1.0, teacher_start=0.75),
    },
    "norms": {"skip-aware, the default": _try(), SINGLE_NORMS: _try(skip_aware_norms=False)},
    "intermediate sub-networks": {
        "all, the default": _try(),
        "the nested ones, TFF and TTF": _try(intermediate=("TFF", "TTF")),
    },
    "cut of stages of 4 blocks": {
        f"{mandatory} + {4 - mandatory}": replace(_try(), network="resnet-long", mandatory=mandatory)
        for mandatory in (1, 2, 3)
    },
    "four times that budget": {
        "the default": _longer(),
        "twice the learning rate": _longer(lr=0.1),
        "0.4 of the weight decay": _longer(weight_decay=2e-4),
        "teacher 1 in the last quarter": _longer(teacher_share=1.0, teacher_start=0.75),
        "SBSBSBSBR": _longer(passes="SBSBSBSBR"),
        "R draws the nested ones alone": _longer(intermediate=("TFF", "TTF")),
        "R draws by validation gap": _longer("by validation gap"),
        "R draws stage by stage, later ones skipped more often": _longer("later stages more often"),
        "a finishing phase of super-net and base-net": _longer("a finishing phase"),
    },
}


def plan(place: Place) -> list[Run]:  # noqa: ARG001 - as every experiment's
    """The first seed alone: what differs by less than a point is chance."""
    return list(dict.fromkeys(run for tries in TRIED.values() for run in tries.values()))


def summary(place: Place) -> dict[str, Any]:
    """What was tried; with one set of norms also what one set of running statistics makes of it (see ablation.py)."""
    first = replace(place, setting=replace(place.setting, seeds=place.setting.seeds[:1]))
    former = read("what_matters", place).get(ONE_SET, {}) if (place.results / "what_matters.json").exists() else {}
    single = TRIED["norms"][SINGLE_NORMS]
    here = weights_of_all_seeds(single, first)
    return {
        "tried": {what: compared(tries, first) for what, tries in TRIED.items()},
        ONE_SET: _with_one_set(single, first) if here else former,
    }


def _with_one_set(run: Run, place: Place) -> dict[str, float]:
    network = trained(run, place)
    assert isinstance(network, ad.AdaptiveNetwork)
    one_set_of_statistics(network)
    test = images.in_order(place.part(run.measured_on))
    return ad.evaluate(network, test, (network.skips[0], network.skips[-1]))


def table(found: dict[str, Any]) -> str:
    tables = [comparison(rows, what) for what, rows in found["tried"].items() if rows]
    if found.get(ONE_SET):
        deep, shallow = (said([value]) for value in found[ONE_SET].values())
        tables.append(f"With {ONE_SET}: super-net {deep}, base-net {shallow}.")
    return "\n\n".join(tables)


if __name__ == "__main__":
    command(sys.modules[__name__])
