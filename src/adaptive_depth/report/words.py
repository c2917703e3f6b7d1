"""What the page says: its summary, its tables and how things were measured, as plain values for the template."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..choose.costs import TIMED, Profile
from ..choose.quantities import Quantity, quality_of, quantities
from ..choose.tradeoffs import Row, TradeOffs
from ..quality import TOP_1, Quality
from ..training.history import Epoch, History
from .choosing import best_of, facts, lost, named, reference, role, verdicts

if TYPE_CHECKING:
    from ..analysis.values import Analysis

Entry = tuple[str, str]
_MANY = 14  # entries of a group; longer groups start folded
_RATES = {"prompt": "Prompt tokens/s", "new": "New tokens/s"}  # of `TradeOffs.tokens_a_second`


def summary(table: TradeOffs) -> list[str]:
    """A few sentences: the range, what its ends cost each other, and whether networks trained alone are better.

    Example:
        >>> table = TradeOffs((Row("F", 76.0, 400_000, 9), Row("T", 75.0, 200_000, 5)))
        >>> summary(table)[0]
        'One network, 2 depths: from 75.00...% with 0.2000...MMACs (T, the base-net) to 76.00... (F, the super-net).'
    """
    name, cost = _leading(table)
    ranked = sorted(table.rows, key=lambda row: getattr(row, name))
    first, last = ranked[0], ranked[-1]
    saved = next(compared for title, _, compared in facts(table)[first.skip]["lines"] if title == cost.title)
    front = len(table.front(name))
    sentences = [
        f"One network, {len(table.rows)} depths: from {_reached(table, first, cost)} to {_reached(table, last, cost)}.",
        f"{front} of {len(table.rows)} are on the Pareto front of {table.quality.noun} against {cost.word}; each of "
        "the others is dominated by one of these.",
    ]
    if saved:
        sentences.insert(1, f"The cheapest, {first.skip}, takes {saved} {cost.word}{_losing(table, first)}.")
    if _compared(table):
        sentences.append(_beaten(table))
    if not table.quality.higher_is_better:
        sentences.append(f"Lower {table.quality.noun} is better.")
    return sentences


def _beaten(table: TradeOffs) -> str:
    """Does it pay? Which depths a network trained alone makes superfluous."""
    beaten = [row.skip for row in table.rows if table.plain_instead(row.skip) is not None]
    if not beaten:
        return "No network trained alone is better than one of these depths without costing more."
    which = f"all {len(beaten)} depths" if len(beaten) == len(table.rows) else ", ".join(beaten)
    return f"A network trained alone is better than {which} and costs no more: if you need only one depth, train that."


def _losing(table: TradeOffs, row: Row) -> str:
    """The end of the sentence on the cheapest: what it loses."""
    top = named(reference(table))
    if table.quality == TOP_1:
        return f", and is {lost(table, row, top)}"
    return f"; its {table.quality.name} is {lost(table, row, f'that of {top}')}"


def tiles(table: TradeOffs) -> list[dict[str, str]]:
    """The ends of the range and the best sub-network, in figures."""
    name, cost = _leading(table)
    quality = quality_of(table)
    known = [quantity for quantity in quantities(table).values() if quantity.name in (name, "macs")]
    found = []
    # One tile if both are the same.
    for row in dict.fromkeys((reference(table), min(table.rows, key=lambda row: row.macs))):
        costs = ", ".join(quantity.text(getattr(row, quantity.name)) for quantity in known)
        called = " ".join(filter(None, (role(row.skip).capitalize(), row.skip)))
        found.append({"name": called, "value": quality.text(row.accuracy), "more": costs})
    best = best_of(table)
    reached = f"{quality.text(best.accuracy)}, {cost.text(getattr(best, name))}"
    most = "Most accurate" if table.quality == TOP_1 else f"Best {quality.title}"
    return [*found, {"name": most, "value": best.skip, "more": reached}]


def columns(table: TradeOffs, profile: Profile | None) -> list[dict[str, str]]:
    """The heads of the table of all sub-networks."""
    top, quality, said = reference(table), quality_of(table), table.quality
    better = [] if said.higher_is_better else ["lower is better"]
    found = [("skip", "Sub-network"), (quality.name, _head(quality.title, quality.unit, *better))]
    found += [("lost", f"Points vs. {top.skip}" if said.unit == "%" else _head(f"Vs. {top.skip}", said.unit))]
    found += [("verdict", "Pareto front")]
    found += [(name, _head(q.title, q.unit)) for name, q in quantities(table).items()]
    found += [(f"rate-{name}", title) for name, title in _RATES.items() if name in table.tokens_a_second(top)]
    found += [("alone", _head("Trained alone", quality.unit))] * _compared(table)
    found += [(f"throughput-{batch}", f"Samples/s (batch of {batch})") for batch in _batches(profile)]
    return [{"name": name, "title": title} for name, title in found]


def _head(title: str, *notes: str) -> str:
    """Such as `"Latency (ms)"`."""
    known = ", ".join(filter(None, notes))
    return f"{title} ({known})" if known else title


def rows(table: TradeOffs, profile: Profile | None) -> list[dict[str, Any]]:
    """The lines of the table of all sub-networks; each cell with its sort key."""
    top, known, found = reference(table), quantities(table), []
    quality, (name, _) = quality_of(table), _leading(table)
    said = verdicts(table)[name]
    for row in table.rows:
        points = row.accuracy - top.accuracy
        cells = [
            _cell(quality.name, row.accuracy, quality.number(row.accuracy)),
            # Adding 0.0 turns -0.0 into 0.0, which would otherwise be shown as "-0.00".
            _cell("lost", points, "–" if row is top else f"{points + 0.0:+.{table.digits}f}"),
            _cell("verdict", said[row.skip], said[row.skip]),
        ]
        for cost, quantity in known.items():
            value = getattr(row, cost)
            cells.append(_cell(cost, value, quantity.number(value), _interval(profile, row.skip, cost, quantity)))
        rates = table.tokens_a_second(row)
        cells += [_cell("rate", rates[name], f"{rates[name]:,.1f}") for name in _RATES if name in rates]
        if _compared(table):
            cells.append(_cell("alone", row.alone, "–" if row.alone is None else quality.number(row.alone)))
        for batch in _batches(profile):
            cost = profile.costs.get(row.skip) if profile is not None else None
            rate = cost.throughput.get(batch) if cost is not None else None
            cells.append(_cell("throughput", rate, "–" if rate is None else f"{rate:,.1f}"))
        found.append({"skip": row.skip, "role": role(row.skip), "cells": cells})
    return found


def _cell(name: str, value: Any, text: str, more: str = "") -> dict[str, Any]:
    """A cell and its sort key, which is empty if the value is unknown."""
    return {
        "name": name,
        "value": "" if value is None else value,
        "text": text.replace("-", "−") if name == "lost" else text,
        "more": more,
    }


def _interval(profile: Profile | None, skip: str, cost: str, quantity: Quantity) -> str:
    if profile is None or cost not in TIMED or getattr(profile.costs.get(skip), cost, None) is None:
        return ""
    low, high = profile.interval(skip)
    return "" if low is None or high is None else f"{quantity.number(low)} to {quantity.number(high)}"


def _compared(table: TradeOffs) -> bool:
    return any(row.alone is not None for row in table.rows)


def _batches(profile: Profile | None) -> list[int]:
    costs = profile.costs.values() if profile is not None else ()
    return list(dict.fromkeys(batch for cost in costs for batch in cost.throughput))


def _leading(table: TradeOffs) -> tuple[str, Quantity]:
    name = table.cost_name()
    return name, quantities(table)[name]


def _reached(table: TradeOffs, row: Row, cost: Quantity) -> str:
    what = ", the ".join(filter(None, (row.skip, role(row.skip))))
    by = "in" if cost.name == "latency_ms" else "with"
    name = "" if table.quality == TOP_1 else f"{table.quality.name} "
    return f"{name}{quality_of(table).text(row.accuracy)} {by} {cost.text(getattr(row, cost.name))} ({what})"


# -- training ---------------------------------------------------------------------------------------------------


def training(history: History, quality: Quality = TOP_1) -> dict[str, Any]:
    """A sentence, what the chart shows, and the figures of every epoch as a table.

    Arguments:
        history: of the training. Its validation is in `quality`; for training images it has accuracies only, and
            only if outputs are classes.
        quality: the table's.
    """
    heads, *lines = (line.split(",") for line in history.to_csv().splitlines())
    kept = [index for index in range(len(heads)) if any(line[index] for line in lines)]
    last = history.epochs[-1]
    said = f"{len(history.epochs)} epoch{'s' * (len(history.epochs) != 1)}. {_at_last(last)}"
    which = "accuracies" if quality == TOP_1 else quality.name
    validated = f" Last validation {which}: {_listed(last.validation, quality)}." if last.validation else ""
    # Calibration changes the intermediate sub-networks most; without this the curve seems to contradict the table.
    when = " Validation during training is before calibration, so it can differ from the table." if validated else ""
    said += when
    shown = ["Losses", *(["accuracies"] if last.accuracy is not None else [])]
    shown += [which] if last.validation and which not in shown else []
    return {
        "said": said,
        "seen": f"{' and '.join(shown)} over the epochs. {said}{validated} The table below lists the figures.",
        "columns": [heads[index].replace("_", " ") for index in kept],
        "lines": [[_short(line[index]) for index in kept] for line in lines],
    }


def _at_last(epoch: Epoch) -> str:
    """What the last epoch reached on the training images."""
    if epoch.accuracy is None:
        base = "" if epoch.base_loss is None else f" (base-net {epoch.base_loss:.4g})"
        return f"In the last one, the loss was {epoch.loss:.4g}{base}."
    base = "" if epoch.base_accuracy is None else f" (base-net {epoch.base_accuracy:.1f} %)"
    return f"In the last one, accuracy on the training images was {epoch.accuracy:.1f} %{base}."


def _listed(values: Mapping[str, float], quality: Quality) -> str:
    digits = 1 if quality.unit == "%" else quality.digits(values.values())
    return ", ".join(f"{skip} {quality.text(value, digits)}" for skip, value in values.items())


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
        _table("Figures for every stage", ("stage", *loss, "loss added by skipping", "KL of the features"), stages),
        _table("Figures for every block", ("block", "sub-path", "‖F‖/‖h‖", "trained alone", *loss), blocks),
    ]


def _table(title: str, heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """A table without its empty columns."""
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
    """Groups of names and values: the device, the conditions, and whatever the caller adds."""
    groups: list[tuple[str, list[Entry]]] = [
        ("Device", [*_entries(profile.device if profile is not None else table.device)]),
    ]
    if profile is not None:
        costs: dict[str, Any] = {"batch size": profile.batch_size, "backend": profile.backend, "energy": profile.energy}
        uncounted = {"uncounted multiply-adds": profile.uncounted} if profile.uncounted else {}
        groups.append(("Costs", [*_entries({**costs, **profile.conditions, **uncounted})]))
    groups += [(title, [*_entries(told)]) for title, told in about.items()]
    return [
        {"title": title, "entries": entries, "folded": len(entries) > _MANY} for title, entries in groups if entries
    ]


def notes(profile: Profile | None) -> list[str]:
    """A profile's notes beneath its table: what is indistinguishable, what was not counted."""
    return [] if profile is None else [*profile.notes()]


def savings(profile: Profile | None) -> dict[int, str]:
    """By stage, counted from 0: what skipping it saves, if that was measured."""
    found = {}
    for saving in profile.savings() if profile is not None else ():
        # With "#", trailing zeros stay, so that all times have three digits.
        span = f"{saving.ms:#.3g} ms ({saving.low_ms:#.3g} to {saving.high_ms:#.3g})"
        buys = "skipping saves" if saving.is_measurable else "skipping saves no time beyond noise:"
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
