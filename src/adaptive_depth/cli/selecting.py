"""adaptive-depth select: the best depth under a budget."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import BudgetError
from . import runs, show
from .evaluate import Run
from .stages import Json


def select(
    run: Run,
    latency_ms: Annotated[float | None, typer.Option(help="At most so many milliseconds.")] = None,
    macs: Annotated[float | None, typer.Option(help="At most so many multiply-adds an image, such as 3e9.")] = None,
    energy_mj: Annotated[float | None, typer.Option(help="At most so many millijoules.")] = None,
    memory_mb: Annotated[float | None, typer.Option(help="At most so many megabytes.")] = None,
    parameters: Annotated[float | None, typer.Option(help="At most so many parameters.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="At least so many percent, such as 90.")] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A profile from another device; RUN/profile.json if not given."),
    ] = None,
    alone: Annotated[
        list[str] | None,
        typer.Option(metavar="SKIP=PERCENT", help="Top-1 of a network of this depth trained alone; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Choose the best sub-network of a run within limits; with --accuracy alone, the cheapest one.

    Joins what evaluate and profile measured; writes RUN/tradeoffs.json and RUN/tradeoffs.png. What is said with
    --alone is kept, in RUN/alone.json.

    Example: adaptive-depth select runs/demo --latency-ms 1.5
    """
    from ..plotting import plot_tradeoffs

    runs.check_run(run)
    if profile is None or alone:
        runs.check_writable(run, "make it writable, or copy it elsewhere")
    known = runs.read_alone(run)
    given_alone = known | _percentages(alone or [])
    table = runs.trade_offs(run, runs.read_profile(run, profile), given_alone)
    given = {"latency_ms": latency_ms, "macs": macs, "energy_mj": energy_mj, "memory_mb": memory_mb}
    given |= {"parameters": parameters, "accuracy": accuracy}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    chosen = table.choose(**limits) if limits else None
    if given_alone != known:
        show.write_json(run / runs.ALONE, given_alone)
    if profile is None:
        show.write_json(run / runs.TRADEOFFS, table.to_json())
        plot_tradeoffs(table, run / runs.PLOT)
    if json:
        said = {"chosen": chosen.skip, "ties": chosen.ties, "why": chosen.why} if chosen else {"chosen": None}
        show.as_json({**said, "limits": limits, "front": [row.skip for row in table.front()], **table.to_json()})
        return
    typer.echo(table)
    typer.echo(chosen or "No limit was given: choose with --latency-ms, --macs, --accuracy ...")
    if profile is None:
        typer.echo(f"Written to {run / runs.TRADEOFFS} and {run / runs.PLOT}")


def _percentages(texts: list[str]) -> dict[str, float]:
    """`["FFFF=76.7"]` as accuracies by skip."""
    parsed = {}
    for text in texts:
        skip, _, value = text.partition("=")
        try:
            parsed[skip.strip()] = float(value)
        except ValueError as error:
            raise BudgetError(f"--alone {text!r}: expected SKIP=PERCENT, such as FFFF=76.7") from error
    return parsed
