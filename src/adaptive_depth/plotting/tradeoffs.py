"""Quality against cost."""

import os
from collections.abc import Iterable, Mapping
from itertools import cycle
from math import hypot
from typing import TYPE_CHECKING

from ..choose.costs import COSTS, macs_unit
from ..choose.tradeoffs import Row, TradeOffs
from ..quality import TOP_1
from ..text import printable
from .figures import ALONE, FRONT, OTHER, check_path, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# Candidate label positions: offset from the marker in points, and alignment; the first free one is used.
_PLACES = (
    (-5, 4, "right", "bottom"),
    (5, -4, "left", "top"),
    (6, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (0, 7, "center", "bottom"),
    (0, -7, "center", "top"),
    (-14, 14, "right", "bottom"),
    (14, -14, "left", "top"),
)


def plot_tradeoffs(
    table: TradeOffs,
    path: str | os.PathLike[str] | None = None,
    *,
    compare: Mapping[str, tuple[float, float]] | None = None,
    cost: str | None = None,
    size: tuple[float, float] = (7.2, 4.8),
) -> "Figure":
    """Draw quality against cost: every sub-network a point, the Pareto front a line of steps.

    Super-net, base-net and the sub-networks on the front are labelled with their skip if there is room. Networks of
    the same depths trained alone (`Row.alone`) are drawn at the same cost. The points' artists have ids, `point-TTFF`
    and `alone-TTFF`, which an SVG file keeps.

    Arguments:
        table: what to draw.
        path: a PNG file to write; an existing one is replaced atomically.
        compare: other networks, by name: (cost, quality), in the units of `Row` and of the table.
        cost: one of `table.measured`; by default latency if it was measured, else macs.
        size: width and height in inches; text keeps its size.

    Returns:
        The figure, for changes and other formats (`figure.savefig`).

    Raises:
        MeasurementError: a cost that does not exist or was not measured, or a path that does not end in .png.

    Example:
        >>> from adaptive_depth.choose.tradeoffs import Row
        >>> table = TradeOffs((Row("F", 76.0, 400_000_000, 9), Row("T", 75.0, 200_000_000, 5)))
        >>> plot_tradeoffs(table).axes[0].get_xlabel()
        'multiply-adds (GMACs a sample)'
    """
    name = table.cost_name(cost)
    compare = compare or {}
    check_path(path)
    largest = max([getattr(row, name) for row in table.rows] + [there for there, _ in compare.values()])
    divisor, label = _axis(table, name, largest)
    figure = new_figure(*size)
    axes = figure.add_subplot()
    places = _draw_points(axes, table, name, divisor)
    _draw_alone(axes, table, name, divisor)
    _draw_others(axes, compare, divisor)
    axes.set_xlabel(label)
    judged_by = "top-1 accuracy (%)" if table.quality == TOP_1 else str(table.quality)
    title = f"{table.quality.title} against {COSTS[name].word} of {len(table.rows)} sub-networks"
    axes.set_ylabel(printable(judged_by), parse_math=False)  # a name is not a formula
    axes.set_title(printable(title), fontsize=11, parse_math=False)
    axes.margins(0.08, 0.1)
    tidy(axes)
    axes.legend(loc="best", fontsize=8, frameon=False)
    _label(figure, axes, places, table.front(name))
    save(figure, path)
    return figure


def _axis(table: TradeOffs, cost: str, largest: float) -> tuple[float, str]:
    """What the costs are divided by, and the axis label with its unit."""
    if cost == "latency_ms":
        return 1.0, f"latency (ms, batch of {table.batch_size})"
    if cost == "energy_mj":
        return 1.0, f"energy (mJ, batch of {table.batch_size})"
    if cost == "first_token_ms":
        return 1.0, f"time to first token (ms, {table.of_text()})"
    if cost == "token_ms":
        return 1.0, f"time per token (ms, {table.of_text()})"
    if cost == "cache_kb":
        return 1.0, "cache per token (kB)"
    if cost == "memory_mb":
        return 1.0, f"memory (MB, batch of {table.batch_size})"
    if cost == "macs":
        divisor, unit = macs_unit(largest)
        return divisor, f"multiply-adds ({unit} a sample)"
    return (1e6, "parameters (millions)") if largest >= 1e5 else (1.0, "parameters")


def _draw_points(axes: "Axes", table: TradeOffs, cost: str, divisor: float) -> dict[str, tuple[float, float]]:
    """Draw the sub-networks and their front; return their coordinates."""
    places = {row.skip: (getattr(row, cost) / divisor, row.accuracy) for row in table.rows}
    front = [row.skip for row in table.front(cost)]
    others = [skip for skip in places if skip not in front]
    # Between two points of the front, the cheaper one is the best available.
    axes.step(
        *_columns(places[skip] for skip in front),
        where="post",
        color=FRONT,
        linewidth=1,
        alpha=0.6,
        zorder=2,
    )
    for skips, area, color, label in ((front, 28, FRONT, "Pareto front"), (others, 20, OTHER, "dominated")):
        # One artist per point, because each point needs its own id.
        for number, skip in enumerate(skips):
            x, y = places[skip]
            name = label if not number else "_"  # the legend lists one of them
            axes.scatter([x], [y], s=area, color=color, label=name, zorder=3, gid=f"point-{skip}")
    return places


def _draw_alone(axes: "Axes", table: TradeOffs, cost: str, divisor: float) -> None:
    for number, row in enumerate(row for row in table.rows if row.alone is not None):
        axes.scatter(
            [getattr(row, cost) / divisor],
            [row.alone],  # type: ignore[list-item]
            s=42,
            marker="D",
            facecolors="none",
            edgecolors=ALONE,
            label="_" if number else "same depth trained alone",
            gid=f"alone-{row.skip}",
        )


def _draw_others(axes: "Axes", compare: Mapping[str, tuple[float, float]], divisor: float) -> None:
    for (name, (cost, quality)), marker in zip(compare.items(), cycle("s^vPX"), strict=False):
        axes.scatter(
            [cost / divisor],
            [quality],
            s=42,
            marker=marker,
            facecolors="none",
            edgecolors=ALONE,
            label=printable(name).replace("$", r"\$"),  # not a formula
        )


def _columns(places: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    pairs = list(places)
    return [x for x, _ in pairs], [y for _, y in pairs]


def _label(figure: "Figure", axes: "Axes", places: Mapping[str, tuple[float, float]], front: Iterable[Row]) -> None:
    """Label points with their skips where that hides neither a point nor another label, and stands nearest to its own
    point.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # fixes the layout, and so the pixel positions of points
    taken = [
        Bbox.from_bounds(x - 6, y - 6, 12, 12)
        for collection in axes.collections
        for x, y in axes.transData.transform(collection.get_offsets())
    ]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent())
    points = dict(zip(places, axes.transData.transform([*places.values()]), strict=True))
    ends = [skip for skip in places if len(set(skip)) == 1]
    for skip in dict.fromkeys([*ends, *(row.skip for row in front)]):
        for x, y, across, along in _PLACES:
            text = axes.annotate(
                skip,
                places[skip],
                xytext=(x, y),
                textcoords="offset points",
                ha=across,
                va=along,
                fontsize=7.5,
                family="monospace",
            )
            box = text.get_window_extent()
            apart = {other: _distance(box, point) for other, point in points.items()}
            if min(apart.values()) == apart[skip] and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _distance(box: "Bbox", point: Iterable[float]) -> float:
    """Between a point and the nearest side of a box, in pixels."""
    x, y = point
    return hypot(max(box.x0 - x, 0.0, x - box.x1), max(box.y0 - y, 0.0, y - box.y1))
