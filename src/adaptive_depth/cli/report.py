"""adaptive-depth report: a run as one HTML page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from ..schema import Open, Such, Text, from_plain, read_bytes, read_yaml, to_plain
from . import runs, show
from .evaluate import Run
from .stages import Json

if TYPE_CHECKING:
    from ..analysis.values import Analysis
    from ..training.history import History

_SHOWN = ("data", "images", "statistics")  # of what evaluate writes beside the accuracy


def report(
    run: Run,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it; RUN/report.html by default.")
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Title of the page; by default the folder's name.", show_default=False),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A profile from another device; RUN/profile.json by default."),
    ] = None,
    json: Json = False,
) -> None:
    """Write one HTML page on a run: its trade-offs, training and analysis.

    The page opens offline in any browser. There you can choose a depth by a limit, compare all depths and see how they
    were measured.

    Example: adaptive-depth report runs/demo
    """
    from ..report import report_page

    runs.check_run(run)
    place = output or run / runs.REPORT
    if output is None:
        runs.check_writable(run, "write the report elsewhere with --output FILE")
    else:
        runs.check_output(place, b"<!doctype html>")
    accuracy, cost = runs.read_accuracy(run), runs.read_profile(run, profile)
    page = report_page(
        runs.trade_offs(run, cost),
        title=title or run.resolve().name,
        stages=_stages(run),
        profile=cost,
        history=_history(run),
        analysis=_analysis(run),
        pictures=_pictures(run),
        about={accuracy["quality"].title: {name: accuracy.get(name) for name in _SHOWN}, **_how_trained(run)},
    )
    _write(place, page)
    if json:
        show.as_json({"run": str(run), "report": str(place), "bytes": len(page.encode())})
        return
    typer.echo(f"Written to {place} ({len(page.encode()) / 1e3:,.0f} kB): open it in a browser.")


# -- the contents of a run ---------------------------------------------------------------------------------------


def _stages(run: Path) -> list[Mapping[str, Any]]:
    fix = "save the network again"
    try:
        found = from_plain(_Cut, runs.read_json(run / runs.NETWORK, fix), DataError, "it")
    except DataError as error:
        raise DataError(f"{run / runs.NETWORK} contains no valid stages ({error}): {fix}") from error
    return to_plain(found.stages)


@dataclass(frozen=True)
class _Stage(Open):
    """What the page shows of a stage; importing `Stage` would import torch, which a report does not need."""

    mandatory: tuple[Text, ...]
    skippable: tuple[Text, ...]
    name: str = ""


@dataclass(frozen=True)
class _Cut(Open):
    stages: Annotated[tuple[_Stage, ...], Such(lambda stages: 1 <= len(stages) <= 12, "1 to 12 stages")]


def _history(run: Path) -> "History | None":
    from ..training.history import History

    path = run / runs.HISTORY
    if not path.exists():
        return None
    fix = "remove it to report without it"
    try:
        return History.from_csv(read_bytes(path, DataError, fix).decode())
    except ValueError as error:  # from decoding or from the history
        raise DataError(f"{path} is damaged ({error}): {fix}") from error


def _analysis(run: Path) -> "Analysis | None":
    from ..errors import MeasurementError

    path = run / runs.ANALYSIS
    if not path.exists():
        return None
    from ..analysis.values import Analysis

    fix = f"create it again with {show.command('analyze', run)}, or remove it"
    found = runs.read_json(path, fix)
    try:
        return Analysis.from_json(found)
    except MeasurementError as error:
        raise DataError(f"{path} is damaged ({error}): {fix}") from error


def _pictures(run: Path) -> dict[str, bytes]:
    path = run / runs.MAPS
    if not path.exists():
        return {}
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise DataError(f"{path} is not a PNG image: create it again with {show.command('analyze', run)}, or remove it")
    return {"Class-activation maps: what super-net and base-net look at": content}


def _how_trained(run: Path) -> dict[str, dict[str, Any]]:
    """The images and the recipe, as far as the run records them."""
    found = {}
    if (run / runs.DATA).exists():
        data = _entries(runs.read_json(run / runs.DATA, "save the run again"), run / runs.DATA)
        classes = data.get("classes")
        # The path on this machine is of no use to readers of the page.
        found["Images"] = {**data, "classes": len(classes) if isinstance(classes, list) else classes, "root": None}
    if (run / runs.RECIPE).exists():
        recipe = read_yaml(run / runs.RECIPE, DataError, "remove it to report without it")
        found["Training recipe"] = _entries(recipe, run / runs.RECIPE)
    return found


def _entries(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path} does not contain names with values: remove it to report without it")
    return value


def _write(place: Path, page: str) -> None:
    from ..files import write_atomically

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, page.encode())
    except OSError as error:
        raise typer.BadParameter(f"--output {place} cannot be written ({error}): name another file") from error
