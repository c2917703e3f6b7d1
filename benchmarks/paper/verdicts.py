"""The paper's claims and what was found: each holds, does not hold, or is undecided, by one rule.

Two means differ if they are more than two standard deviations apart (over seeds, of the side that varies more).
"""

from collections.abc import Callable, Iterator
from itertools import product
from statistics import mean
from typing import Any

from ablation import ONE_SET
from command import read
from plans import clearly, ends, markdown, said, spread
from run import Place

Row = tuple[str, str, str, str]  # claim, the paper's figures, what was found, the verdict
BOTH = "distillation, skip-aware norms"
HOLDS, NOT, UNTOLD = "**holds**", "**does not hold**", "undecided"


def table(place: Place) -> str:
    rows = [row for claim in CLAIMS for row in _of(claim, place)]
    return markdown(["claim", "paper", "here", "verdict"], rows)


def _of(claim: Callable[..., Iterator[Row]], place: Place) -> list[Row]:
    name = claim.__name__.lstrip("_")
    if not (place.results / f"{name}.json").exists():
        return []
    found = read(name, place)
    by_itself = claim in (_main_result, _ablation)  # families and cases are only listed once all their seeds are
    return list(claim(found)) if by_itself or not found["runs missing"] else []


def at_least(ours: list[float], theirs: list[float]) -> str:
    if clearly(theirs, ours):
        return NOT
    return HOLDS if mean(ours) >= mean(theirs) else f"{UNTOLD}: less, but within the variation of seeds"


def no_more(ours: list[float], theirs: list[float]) -> str:
    if clearly(ours, theirs):
        return NOT
    return HOLDS if mean(ours) <= mean(theirs) else f"{UNTOLD}: more, but within the variation of seeds"


def above(ours: list[float], theirs: list[float]) -> str:
    if clearly(ours, theirs):
        return HOLDS
    told = "more" if mean(ours) > mean(theirs) else "less"
    return NOT if clearly(theirs, ours) else f"{UNTOLD}: {told}, but within the variation of seeds"


def _main_result(found: dict[str, Any]) -> Iterator[Row]:
    papers = {
        "resnet": ("+0.9", "+1.1", "ResNet-50"),
        "mobilenet_v2": ("+0.4", "+0.4", "MobileNetV2"),
        "vit": ("+0.3", "+1.9", "ViT-B/16"),
        "swin": ("+0.1", "+0.6", "Swin-T"),
    }
    for name, family in found["families"].items():
        ours, theirs = family["adaptive"], family["alone"]
        deep, shallow = ends(ours)
        which = family["title"].split(",")[0]
        for place, skip in ((0, deep), (1, shallow)):
            told = f"{said(ours[skip])} against {said(theirs[skip])}"
            part = ("super-net", "base-net")[place]
            yield (
                f"{which}: the {part} is as accurate as that network trained alone",
                f"{papers[name][place]} ({papers[name][2]})",
                told,
                at_least(ours[skip], theirs[skip]),
            )
        for skip in list(theirs)[1:-1]:
            told = f"{said(ours[skip])} against {said(theirs[skip])}"
            claim = f"{which}: {skip}, in between, is as accurate as that network trained alone"
            yield (claim, "not reported", told, at_least(ours[skip], theirs[skip]))
        line, cost = family["points above the line, by sub-network"], family["macs"]
        ranked = sorted(line, key=lambda skip: line[skip])
        best = {cost[skip]: skip for skip in ranked}.values()  # of equal costs, the last and best remains
        scatter = 2 * max(spread(ours[skip]) for skip in ours)
        for told, compared in (("all intermediate depths", line), ("the best intermediate depth at each cost", best)):
            lowest = min(compared, key=lambda skip: line[skip])
            verdict = HOLDS if line[lowest] >= 0 else (UNTOLD if line[lowest] >= -scatter else NOT)
            yield (
                f"{which}: {told} on or above the line joining the two ends",
                "near the line",
                f"lowest {lowest}, {line[lowest]:+.1f} points",
                verdict if verdict != UNTOLD else f"{UNTOLD}: below, but within the variation of seeds",
            )


def _ablation(found: dict[str, Any]) -> Iterator[Row]:
    cases = {row["case"]: row for row in found["cases"]}
    budgets = [case.removeprefix(BOTH) for case in cases if case == BOTH or case.startswith(f"{BOTH}, budget")]
    papers = {
        "labels, one set of norms": "-1.5, -2.8 against alone",
        "labels, skip-aware norms": "slightly below alone",
        "distillation, one set of norms": "slightly below alone",
    }
    for budget, (case, told), part in product(budgets, papers.items(), ("super-net", "base-net")):
        if row := cases.get(f"{case}{budget}"):
            both = cases[f"{BOTH}{budget}"]
            yield (
                f"both together beat: {case}{budget} ({part})",
                told,
                f"{said(both[part])} against {said(row[part])}",
                above(both[part], row[part]),
            )
    for (case, row), part in product(found[ONE_SET].items(), ("super-net", "base-net")):
        title, word, budget = case.partition(", budget")
        both = cases[BOTH + word + budget][part]
        told = f"{said(both)} against {said(row[part])}"
        yield (
            f"both together beat: {title} and of statistics{word}{budget} ({part})",
            papers[title],
            told,
            above(both, row[part]),
        )


def _strategies(found: dict[str, Any]) -> Iterator[Row]:
    cases = {row["case"]: row for row in found["cases"]}
    usual = next(iter(cases))
    for case, part in product(cases, ("super-net", "base-net", "mean of all")):
        title, word, budget = case.partition(", budget")
        if title != usual:
            ours, theirs = cases[usual + word + budget][part], cases[case][part]
            told = f"{said(theirs)} against {said(ours)}"
            yield (f"{case}: worse ({part})", "worse for every sub-network", told, above(ours, theirs))


def _ratio(found: dict[str, Any]) -> Iterator[Row]:
    shorter, half, longer = found["cases"]
    told = f"{said(shorter['mean of all'])} against {said(half['mean of all'])}"
    yield (
        "mandatory shorter than skippable: worse (mean)",
        "all get worse",
        told,
        above(half["mean of all"], shorter["mean of all"]),
    )
    told = f"{said(longer['super-net'])} against {said(half['super-net'])}"
    yield (
        "mandatory longer: no better (super-net)",
        "no better, less range",
        told,
        no_more(longer["super-net"], half["super-net"]),
    )


def _cost(found: dict[str, Any]) -> Iterator[Row]:
    for name, each in found["time of an epoch, against super-net and base-net alone"].items():
        ratio = each["adaptive"]
        told = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        yield (f"{name}: an epoch costs at most as much as super-net and base-net", "about 1", told, _at_most(1, ratio))
        for rival in ("slimmable", "sandwich"):
            if rival in each:
                times = each[rival]["median"] / ratio["median"]
                claim = f"{name}: {rival}, a rival, costs several times as much as the method (at least twice)"
                yield (claim, "several times", f"{times:.1f} times", HOLDS if times >= 2 else NOT)


def _device(found: dict[str, Any]) -> Iterator[Row]:
    for name, claim, paper in (
        ("depth TTTT", "less depth saves time (at least 85 % of the work saved)", "38 % less work, 35 % less latency"),
        ("width 0.25", "less width hardly saves time (at most 50 % of it)", "93 % less work, 9 % less latency"),
    ):
        each = found["ratios"][name]
        work, latency = 1 - each["macs"], each["latency"]
        told = (
            f"{work:.0%} less work, {1 - latency['median']:.0%} less latency "
            f"({1 - latency['high']:.0%} to {1 - latency['low']:.0%})"
        )
        if name.startswith("depth"):
            verdict = _at_most(1 - 0.85 * work, latency)
        else:
            verdict = HOLDS if latency["median"] >= 1 - 0.5 * work else NOT
        yield (claim, paper, told, verdict)


def _at_most(limit: float, ratio: dict[str, float]) -> str:
    """The verdict on a ratio, given with its middle half."""
    if ratio["median"] <= limit:
        return HOLDS
    return NOT if ratio["low"] > limit else f"{UNTOLD}: more, but within the variation of rounds"


def _rationale(found: dict[str, Any]) -> Iterator[Row]:
    for name, rows in found["networks"].items():
        pairs = (
            (
                "mandatory blocks change more than in a network trained alone",
                "‖F‖/‖h‖ of mandatory blocks",
                "the same, trained alone",
            ),
            (
                "skippable blocks change less than in a network trained alone",
                "these, trained alone",
                "‖F‖/‖h‖ of skippable blocks",
            ),
        )
        for claim, more, less in pairs:
            told = f"{said(rows[more], 2)} above {said(rows[less], 2)}"
            yield (f"{name}: {claim}", "yes (Figure 3)", told, above(rows[more], rows[less]))
        cosine = rows["cosine of F and -dL/dh"]
        yield (
            f"{name}: skippable blocks step along the negative gradient",
            "yes (Equation 6)",
            f"cosine {said(cosine, 3)}",
            above(cosine, [0.0] * len(cosine)),
        )
        first, real = rows["change of the loss by skippable sub-paths, first order"], rows["its real change"]
        factor = mean(first) / mean(real)
        verdict = HOLDS if 0.5 <= factor <= 2 else NOT
        yield (
            f"{name}: the first-order expansion holds (within a factor of 2)",
            "yes (Equation 5)",
            f"{factor:.1f} times",
            verdict,
        )
        wide, narrow = rows["the base-net's"], rows["part of an image that the super-net's map lights"]
        yield (
            f"{name}: mandatory blocks light up more of an image than all blocks",
            "yes (Figure 8)",
            f"{said(wide, 2)} against {said(narrow, 2)}",
            above(wide, narrow),
        )


def _fine_tuning(found: dict[str, Any]) -> Iterator[Row]:
    tenth = next(row for row in found["cases"] if row["case"].startswith("10 %"))  # with the best learning rate
    whole = found["cases"][-1]
    for part in ("super-net", "worst"):
        told = f"{said(tenth[part])} against {said(whole[part])}"
        verdict = HOLDS if mean(tenth[part]) >= mean(whole[part]) - 1 else NOT
        claim = f"a tenth of the budget brings a trained network within a point ({part})"
        yield (claim, "our hypothesis", told, verdict)


CLAIMS = (_main_result, _ablation, _strategies, _ratio, _cost, _device, _rationale, _fine_tuning)
