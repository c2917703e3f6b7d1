"""The page: everything measured for a run, in one self-contained file."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..choose.costs import Profile
from ..choose.quantities import quality_of, quantities
from ..choose.tradeoffs import TradeOffs
from ..errors import MeasurementError
from ..quality import TOP_1, Quality
from ..training.history import History
from . import words
from .charts import inline_svg, places
from .choosing import facts, limits, verdicts

if TYPE_CHECKING:
    from ..analysis.values import Analysis

_SIZE = (4.8, 3.5)  # inches: legible in half of a wide screen and on the whole of a phone
_TALL = (4.8, 4.6)
_PNG = b"\x89PNG\r\n\x1a\n"


def report_page(
    table: TradeOffs,
    *,
    title: str,
    stages: Sequence[Mapping[str, Any]],
    profile: Profile | None = None,
    history: History | None = None,
    analysis: "Analysis | None" = None,
    pictures: Mapping[str, bytes] | None = None,
    about: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """One HTML page on a network's depths: choose one by a limit, compare all, see how they were measured.

    It is self-contained: nothing is loaded from elsewhere, and its content security policy forbids it. Without
    JavaScript everything except the slider works.

    Arguments:
        table: quality and cost of the sub-networks.
        title: of the page.
        stages: as `Stages.to_json` returns them: `name`, and module paths in `mandatory` and `skippable`.
        profile: the source of the costs in `table`; says how they were measured.
        history: of the training.
        analysis: what `analyze` found.
        pictures: PNG files, by what they show.
        about: further facts under "How it was measured": names and values, by group heading.

    Returns:
        HTML; the same input always produces the same text.

    Raises:
        MeasurementError: sub-networks that do not fit the stages, or a picture that is not a PNG file.

    Example:
        >>> from adaptive_depth.choose.tradeoffs import Row
        >>> table = TradeOffs((Row("F", 76.0, 400, 9), Row("T", 75.0, 200, 5)))
        >>> page = report_page(table, title="Mine", stages=[{"mandatory": ["a.0"], "skippable": ["a.1"], "name": "a"}])
        >>> page[:15], "<h1>Mine</h1>" in page
        ('<!doctype html>', True)
    """
    _check(table, stages)
    charts, geometry = _trade_offs(table)
    script = _file("page.js")
    shown = _stages(stages, words.savings(profile))
    analysed = _analysed(analysis)
    values = {
        "title": title,
        "judged_by": "accuracies" if table.quality == TOP_1 else table.quality.name,
        # The content security policy allows only the script with this hash.
        "script_hash": b64encode(sha256(script.encode()).digest()).decode(),
        "summary": words.summary(table),
        "tiles": words.tiles(table),
        "limits": [{"name": limit.quantity.name, "title": limit.quantity.title} for limit in limits(table).values()],
        "charts": charts,
        "stages": shown,
        "blocks": sum(len(stage["blocks"]) for stage in shown),
        "caption": _caption(table),
        "columns": words.columns(table, profile),
        "rows": words.rows(table, profile),
        "notes": [*words.notes(profile), *([table.doubt] if table.doubt else [])],
        "training": _training(history, table.quality),
        "analysis": analysed,
        "pictures": [_picture(caption, content) for caption, content in (pictures or {}).items()],
        "measured": words.measured(table, profile, about or {}),
        "data": _data(table, shown, geometry),
    }
    return _rendered(script, values)


def _rendered(script: str, values: dict[str, Any]) -> str:
    sections = [("choose", "Choose a depth"), ("table", "All sub-networks")]
    sections += [("training", "Training")] * bool(values["training"])
    sections += [("analysis", "Analysis")] * bool(values["analysis"] or values["pictures"])
    sections += [("measured", "How it was measured")]
    page = _template().render(**values, script=script, style=_file("page.css"), sections=sections)
    return page.encode("utf-8", "replace").decode()  # a name may contain a lone surrogate, which UTF-8 cannot encode


@cache
def _file(name: str) -> str:
    return files("adaptive_depth.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    # Strict, so that a typo in the template is an error instead of a gap.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file("page.html"))


def _check(table: TradeOffs, stages: Sequence[Mapping[str, Any]]) -> None:
    for row in table.rows:
        if len(row.skip) != len(stages):
            raise MeasurementError(
                f"sub-network {row.skip!r} has {len(row.skip)} letters, but {len(stages)} stages were given: "
                "expected one letter per stage; pass the stages of the network that was measured"
            )


def _caption(table: TradeOffs) -> str:
    batch = f" Latency is for a batch of {table.batch_size}." if "latency_ms" in table.measured else ""
    if {"token_ms", "first_token_ms"} & {*table.measured}:
        batch += f" Text times are for a {table.of_text()}."
    what = f"{table.quality.heading} and cost of {len(table.rows)} sub-networks."
    return f"{what}{batch} Click a column head to sort by it."


# -- charts -----------------------------------------------------------------------------------------------------


def _trade_offs(table: TradeOffs) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Charts of quality against each cost, and the coordinates of what they show."""
    from ..plotting import plot_tradeoffs

    charts, geometry = [], {}
    known, quality = quantities(table), quality_of(table)
    for name in limits(table):
        if name not in known:
            continue
        quantity = known[name]
        figure = plot_tradeoffs(table, cost=name, size=_SIZE)
        points = "; ".join(
            f"{row.skip} {quality.text(row.accuracy)} at {quantity.text(getattr(row, name))}"
            for row in table.front(name)
        )
        svg = inline_svg(
            figure,
            f"chart-{name}",
            f"{quality.title} against {quantity.word} of {len(table.rows)} sub-networks",
            f"On the Pareto front, cheapest first: {points}. The table lists all of them.",
        )
        charts.append({"cost": name, "svg": svg})
        geometry[name] = places(figure, {row.skip: getattr(row, name) / quantity.divisor for row in table.rows})
    return charts, geometry


def _training(history: History | None, quality: Quality) -> dict[str, Any] | None:
    """Contents of the training section; None if there is none."""
    if history is None or not history.epochs:
        return None
    from ..plotting import plot_training

    found = words.training(history, quality)
    figure = plot_training(history, quality=quality, size=_TALL)
    svg = inline_svg(figure, "chart-training", "Training, epoch by epoch", found["seen"])
    return {**found, "svg": svg}


def _analysed(analysis: "Analysis | None") -> dict[str, Any] | None:
    """Contents of the analysis section; None if there is none."""
    if analysis is None:
        return None
    from ..plotting.analysis import plot_transformations

    figure = plot_transformations(analysis)
    least = round(60 * figure.get_figwidth())  # pixels: any narrower, its labels become illegible
    seen = "How much each block changes its input features. The tables below list the figures."
    svg = inline_svg(figure, "chart-analysis", "Transformation by each block", seen)
    return {"advice": analysis.advice, "tables": words.analysis_tables(analysis), "svg": svg, "least": least}


# -- parts ------------------------------------------------------------------------------------------------------


def _stages(stages: Sequence[Mapping[str, Any]], saved: Mapping[int, str]) -> list[dict[str, Any]]:
    """Every block of every stage, with the part of its path that distinguishes it from its neighbours."""
    found = []
    for index, stage in enumerate(stages):
        paths = [*stage["mandatory"], *stage["skippable"]]
        name = str(stage.get("name") or f"stage {index + 1}")
        blocks = [
            {
                "path": path,
                "short": path.rpartition(".")[2],
                "kind": "mandatory" if place < len(stage["mandatory"]) else "skippable",
            }
            for place, path in enumerate(paths)
        ]
        found.append({"name": name, "blocks": blocks, "saving": saved.get(index, "")})
    return found


def _picture(caption: str, content: bytes) -> dict[str, str]:
    if not content.startswith(_PNG):
        raise MeasurementError(f"picture {caption!r} starts with {content[:8]!r}: expected the bytes of a PNG file")
    return {"caption": caption, "data": f"data:image/png;base64,{b64encode(content).decode()}"}


def _data(table: TradeOffs, stages: Sequence[Mapping[str, Any]], geometry: Mapping[str, Any]) -> dict[str, Any]:
    """The data that the script reads."""
    known = quantities(table)
    shown = {name: [getattr(row, name) / quantity.divisor for row in table.rows] for name, quantity in known.items()}
    shown[quality_of(table).name] = [row.accuracy for row in table.rows]
    return {
        "limits": [limit.to_json(shown[name]) for name, limit in limits(table).items()],
        "facts": facts(table),
        "verdicts": verdicts(table),
        "front": "on the front",
        "charts": geometry,
        "stages": [
            {
                "name": stage["name"],
                "mandatory": sum(block["kind"] == "mandatory" for block in stage["blocks"]),
                "skippable": sum(block["kind"] == "skippable" for block in stage["blocks"]),
            }
            for stage in stages
        ],
    }
