"""The library's charts as SVG inside a page: text stays text, and the same input produces the same output."""

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ..text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Without the salt, ids would be random and every page different.
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "adaptive-depth", "svg.image_inline": True}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DPI = 72  # of SVG: a point is a unit


def inline_svg(figure: "Figure", name: str, title: str, description: str) -> str:
    """A figure as the `<svg>` element of an HTML page, with a text alternative.

    Arguments:
        figure: of matplotlib; its resolution is set to that of SVG.
        name: of the chart; prefixes ids, which must not clash between charts of a page.
        title, description: what it is, and what can be seen.

    Example:
        >>> from adaptive_depth.plotting.figures import new_figure
        >>> svg = inline_svg(new_figure(), "empty", "Nothing", "An empty chart.")
        >>> svg[:5], '<title id="empty-title">Nothing</title>' in svg
        ('<svg ', True)
    """
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context(_SETTINGS):  # type: ignore[reportArgumentType]
        figure.set_dpi(_DPI)
        # A date would make every page different.
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue().encode())
    _tidy(root, name)
    for tag, words in (("desc", description), ("title", title)):
        part = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        part.text = printable(words)
        root.insert(0, part)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-desc"}
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(root: ElementTree.Element, name: str) -> None:
    """Remove what a page does not need, and prefix every id with the chart's name."""
    for tag in ("width", "height", "version"):
        root.attrib.pop(tag, None)
    for element in root.iter():
        element.tag = _local(element.tag)  # HTML implies the namespace
        for child in list(element):
            if _local(child.tag) in ("style", "metadata"):
                element.remove(child)  # a style would apply to the whole page
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(_local(key), _renamed(_local(key), value, name))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _renamed(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)


def places(figure: "Figure", costs: Mapping[str, float]) -> dict[str, Any]:
    """Coordinates in the SVG of a `plot_tradeoffs` chart, in its units.

    Arguments:
        figure: after `inline_svg`, which fixes its layout.
        costs: of every sub-network, in the page's unit, by skip.

    Returns:
        `points`, [x, y] by skip; `area`, [left, top, right, bottom] of the axes; `line`, [a, b] so that a limit
        lies at x = a + b * limit (b is 0 if all costs are equal); `level`, the same for quality and y.
    """
    axes = figure.axes[0]
    # SVG counts y from the top, matplotlib from the bottom.
    height = figure.get_figheight() * _DPI
    box = axes.get_window_extent()
    points = {}
    for artist in axes.findobj(lambda artist: str(artist.get_gid()).startswith("point-")):
        x, y = axes.transData.transform(artist.get_offsets())[0]  # type: ignore[reportAttributeAccessIssue]
        points[str(artist.get_gid())[6:]] = [round(float(x), 2), round(height - float(y), 2)]
    ends = sorted(points, key=lambda skip: costs[skip])
    first, last = (ends[0], ends[-1]) if ends else ("", "")
    across = costs[last] - costs[first] if ends else 0.0
    slope = (points[last][0] - points[first][0]) / across if across else 0.0
    low, high = axes.get_ylim()  # no fixed values: a quality may span thousandths, or thousands
    (_, bottom), (_, top) = axes.transData.transform([(0, low), (0, high)])
    rise = float(bottom - top) / (high - low)
    return {
        "points": points,
        "area": [round(float(value), 2) for value in (box.x0, height - box.y1, box.x1, height - box.y0)],
        "line": [points[first][0] - slope * costs[first], slope] if slope else [0.0, 0.0],
        "level": [height - float(bottom) - rise * low, rise],
    }
