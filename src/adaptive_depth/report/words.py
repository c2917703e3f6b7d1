"""What the page says: its summary, its tables and how things were measured, as plain values for the template."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..choose.costs import Profile
from ..choose.quantities import ACCURACY, Quantity, quantities
from ..choose.tradeoffs import Row, TradeOffs
from ..training.history import History
from .choosing import facts, reference, role, verdicts

if TYPE_CHECKING:
    from ..analysis.values import Analysis

Entry = tuple[str, str]
_MANY = 14  # entries of a group: more are shown when they are asked for


def summary(table: TradeOffs) -> list[str]:
    """Two sentences: the range, and what its ends cost each other.

    Example:
        >>> table = TradeOffs((Row("F", 76.0, 400_000, 9), Row("T", 75.0, 200_000, 5)))
        >>> summary(table)[0]
        'One network, 2 depths: from 75.00...% with 0.2000...MMACs (T, the base-net) to 76.00... (F, the super-net).'
    """
    name, cost = _leading(table)
    ranked = sorted(table.rows, key=lambda row: getattr(row, name))
    first, last = ranked[0], ranked[-1]
    known = facts(table)
    _, _, lost = known[first.skip]["lines"][0]
    saved = next(compared for title, _, compared in known[first.skip]["lines"] if title == cost.title)
    front = len(table.front(name))
    sentences = [
        f"One network, {len(table.rows)} depths: from {_reached(first, cost)} to {_reached(last, cost)}.",
        f"{front} of {len(table.rows)} are on the Pareto front of accuracy against {cost.title.lower()}; each of the "
        "others is beaten by one of those.",
    ]
    if saved and lost:
        sentences.insert(1, f"The cheapest, {first.skip}, takes {saved} {cost.title.lower()}, and is {lost}.")
    return sentences


def tiles(table: TradeOffs) -> list[dict[str, str]]:
    """The ends of the range and the best, in figures."""
    name, cost = _leading(table)
    known = [quantity for quantity in quantities(table).values() if quantity.name in (name, "macs")]
    found = []
    for row in dict.fromkeys((reference(table), min(table.rows, key=lambda row: row.macs))):
        costs = ", ".join(quantity.text(getattr(row, quantity.name)) for quantity in known)
        called = " ".join(filter(None, (role(row.skip).capitalize(), row.skip)))
        found.append({"name": called, "value": ACCURACY.text(row.accuracy), "more": costs})
    best = max(table.rows, key=lambda row: (row.accuracy, -getattr(row, name)))
    reached = f"{ACCURACY.text(best.accuracy)}, {cost.text(getattr(best, name))}"
    return [*found, {"name": "Most accurate", "value": best.skip, "more": reached}]


def columns(table: TradeOffs, profile: Profile | None) -> list[dict[str, str]]:
    """The heads of the table of all sub-networks."""
    top = reference(table)
    found = [("skip", "Sub-network"), ("accuracy", "Accuracy (%)"), ("lost", f"Points against {top.skip}")]
    found += [("verdict", "Pareto front")]
    found += [(name, f"{q.title} ({q.unit})") for name, q in quantities(table).items()]
    found += [("alone", "Trained alone (%)")] * _compared(table)
    found += [(f"throughput-{batch}", f"Samples/s (batch of {batch})") for batch in _batches(profile)]
    return [{"name": name, "title": title} for name, title in found]


def rows(table: TradeOffs, profile: Profile | None) -> list[dict[str, Any]]:
    """The lines of the table of all sub-networks; each cell with the value that it is sorted by."""
    top, known, found = reference(table), quantities(table), []
    name, _ = _leading(table)
    said = verdicts(table)[name]
    for row in table.rows:
        points = row.accuracy - top.accuracy
        cells = [
            _cell("accuracy", row.accuracy, ACCURACY.number(row.accuracy)),
            _cell("lost", points, "–" if row is top else f"{points + 0.0:+.2f}"),
            _cell("verdict", said[row.skip], said[row.skip]),
        ]
        for cost, quantity in known.items():
            value = getattr(row, cost)
            cells.append(_cell(cost, value, quantity.number(value), _interval(profile, row.skip, cost, quantity)))
        if _compared(table):
            cells.append(_cell("alone", row.alone or 0, "–" if row.alone is None else ACCURACY.number(row.alone)))
        for batch in _batches(profile):
            cost = profile.costs.get(row.skip) if profile is not None else None
            rate = cost.throughput.get(batch) if cost is not None else None
            cells.append(_cell("throughput", rate or 0, "–" if rate is None else f"{rate:,.1f}"))
        found.append({"skip": row.skip, "role": role(row.skip), "cells": cells})
    return found


def _cell(name: str, value: Any, text: str, more: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "text": text.replace("-", "−") if name == "lost" else text, "more": more}


def _interval(profile: Profile | None, skip: str, cost: str, quantity: Quantity) -> str:
    if profile is None or cost != "latency_ms" or skip not in profile.costs:
        return ""
    low, high = profile.costs[skip].latency_low_ms, profile.costs[skip].latency_high_ms
    return "" if low is None or high is None else f"{quantity.number(low)} to {quantity.number(high)}"


def _compared(table: TradeOffs) -> bool:
    return any(row.alone is not None for row in table.rows)


def _batches(profile: Profile | None) -> list[int]:
    costs = profile.costs.values() if profile is not None else ()
    return list(dict.fromkeys(batch for cost in costs for batch in cost.throughput))


def _leading(table: TradeOffs) -> tuple[str, Quantity]:
    name = table.cost_name()
    return name, quantities(table)[name]


def _reached(row: Row, cost: Quantity) -> str:
    what = ", the ".join(filter(None, (row.skip, role(row.skip))))
    by = "in" if cost.name == "latency_ms" else "with"
    return f"{ACCURACY.text(row.accuracy)} {by} {cost.text(getattr(row, cost.name))} ({what})"


# -- training ---------------------------------------------------------------------------------------------------


def training(history: History) -> dict[str, Any]:
    """A sentence, what the chart shows, and the figures of every epoch as a table."""
    heads, *lines = (line.split(",") for line in history.to_csv().splitlines())
    last = history.epochs[-1]
    base = "" if last.base_accuracy is None else f", of the base-net {last.base_accuracy:.1f} %"
    said = (
        f"{len(history.epochs)} epoch{'s' * (len(history.epochs) != 1)}. In the last one the accuracy on the training "
        f"images was {last.accuracy:.1f} %{base}."
    )
    validated = f" Last validation accuracies: {_listed(last.validation)}." if last.validation else ""
    return {
        "said": said,
        "seen": f"Losses and accuracies over the epochs. {said}{validated} The table below holds the figures.",
        "columns": [head.replace("_", " ") for head in heads],
        "lines": [[_short(cell) for cell in line] for line in lines],
    }


def _listed(accuracies: Mapping[str, float]) -> str:
    return ", ".join(f"{skip} {accuracy:.1f} %" for skip, accuracy in accuracies.items())


def _short(cell: str) -> str:
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell


# -- analysis ---------------------------------------------------------------------------------------------------


def analysis_tables(analysis: "Analysis") -> list[dict[str, Any]]:
    """What was found for each stage and for each block."""
    stages = [
        [row.name, row.predicted, row.change, row.cosine, row.skipping, row.divergence] for row in analysis.stages
    ]
    kinds = {True: "skippable", False: "mandatory"}
    blocks = [
        [row.path, kinds[row.skippable], row.ratio, row.alone, row.predicted, row.change, row.cosine]
        for row in analysis.blocks
    ]
    loss = ("predicted change of the loss", "change of the loss", "cosine of F and −∂L/∂h")
    return [
        _table("The figures of every stage", ("stage", *loss, "loss added by skipping", "KL of the features"), stages),
        _table("The figures of every block", ("block", "sub-path", "‖F‖/‖h‖", "trained alone", *loss), blocks),
    ]


def _table(title: str, heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Without the columns that hold nothing."""
    kept = [index for index in range(len(heads)) if any(line[index] is not None for line in lines)]
    return {
        "title": title,
        "columns": [heads[index] for index in kept],
        "lines": [[_figure(line[index]) for index in kept] for line in lines],
    }


def _figure(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.3g}".replace("-", "−")


# -- how it was measured ----------------------------------------------------------------------------------------


def measured(table: TradeOffs, profile: Profile | None, about: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups of names and values: the device, the conditions, and whatever the caller tells."""
    groups: list[tuple[str, list[Entry]]] = [
        ("Device", [*_entries(profile.device if profile is not None else table.device)]),
    ]
    if profile is not None:
        costs: dict[str, Any] = {"batch size": profile.batch_size, "backend": profile.backend, "energy": profile.energy}
        uncounted = {"not counted multiply-adds": profile.uncounted} if profile.uncounted else {}
        groups.append(("Costs", [*_entries({**costs, **profile.conditions, **uncounted})]))
    groups += [(title, [*_entries(told)]) for title, told in about.items()]
    return [
        {"title": title, "entries": entries, "folded": len(entries) > _MANY} for title, entries in groups if entries
    ]


def notes(profile: Profile | None) -> list[str]:
    """What a profile says of itself beneath its table: what cannot be told apart, what was not counted."""
    return [] if profile is None else [*profile.notes()]


def chance(table: TradeOffs) -> list[str]:
    """How far accuracies may differ by chance, where the number of images is known."""
    if table.chance is None:
        return []
    return [f"On {table.images} images, differences in accuracy of less than {table.chance:.1f} points may be chance."]


def savings(profile: Profile | None) -> dict[int, str]:
    """By stage, from 0: what skipping it saves, where that was measured."""
    found = {}
    for saving in profile.savings() if profile is not None else ():
        span = f"{saving.ms:#.3g} ms ({saving.low_ms:#.3g} to {saving.high_ms:#.3g})"
        buys = "skipping saves" if saving.is_measurable else "skipping saves no time that can be told from noise:"
        found[saving.stage - 1] = f"{buys} {span}"
    return found


def _entries(values: Mapping[str, Any], before: str = "") -> Iterator[Entry]:
    for name, value in values.items():
        title = " ".join(filter(None, (before, str(name).replace("_", " "))))
        if isinstance(value, Mapping):
            yield from _entries(value, title)
        elif value is not None and value not in ("", [], ()):
            yield title, _worded(value)


def _worded(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_worded, value))
    return str(value)
