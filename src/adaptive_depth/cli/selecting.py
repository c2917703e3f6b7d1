"""adaptive-depth select: the best depth under a budget."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import BudgetError
from ..quality import TOP_1
from . import runs, show
from .evaluate import Run
from .stages import Json


def select(
    run: Run,
    latency_ms: Annotated[float | None, typer.Option(metavar="MAX", help="Latency in milliseconds.")] = None,
    macs: Annotated[float | None, typer.Option(metavar="MAX", help="Multiply-adds per image, such as 3e9.")] = None,
    energy_mj: Annotated[float | None, typer.Option(metavar="MAX", help="Energy in millijoules.")] = None,
    memory_mb: Annotated[float | None, typer.Option(metavar="MAX", help="Memory in megabytes.")] = None,
    parameters: Annotated[float | None, typer.Option(metavar="MAX", help="Number of parameters.")] = None,
    accuracy: Annotated[
        float | None, typer.Option(metavar="MIN", help="Top-1 accuracy in percent, such as 90.")
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(metavar="MIN", help="The metric of the run; a maximum if lower is better."),
    ] = None,
    first_token_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MAX",
            help="Milliseconds from the prompt to the first token.",
            rich_help_panel="Language models",
        ),
    ] = None,
    token_ms: Annotated[
        float | None,
        typer.Option(metavar="MAX", help="Milliseconds for each further token.", rich_help_panel="Language models"),
    ] = None,
    cache_kb: Annotated[
        float | None,
        typer.Option(metavar="MAX", help="Cache in kB per token.", rich_help_panel="Language models"),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A profile from another device; RUN/profile.json by default."),
    ] = None,
    alone: Annotated[
        list[str] | None,
        typer.Option(metavar="SKIP=VALUE", help="Quality of a network of this depth trained alone; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Choose the best depth within limits, or the cheapest of sufficient quality.

    Joins what evaluate and profile measured; writes RUN/tradeoffs.json and RUN/tradeoffs.png. RUN/alone.json keeps the
    values of --alone.

    Example: adaptive-depth select runs/demo --latency-ms 1.5
    """
    from ..plotting import plot_tradeoffs

    runs.check_run(run)
    if profile is None or alone:
        runs.check_writable(run, "make it writable, or copy it elsewhere")
    known = runs.read_alone(run)
    given_alone = known | _by_skip(alone or [])
    table = runs.trade_offs(run, runs.read_profile(run, profile), given_alone)
    given = {"latency_ms": latency_ms, "macs": macs, "energy_mj": energy_mj, "memory_mb": memory_mb}
    given |= {"parameters": parameters, "first_token_ms": first_token_ms, "token_ms": token_ms}
    given |= {"cache_kb": cache_kb, "accuracy": accuracy, "quality": quality}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    chosen = table.choose(**limits) if limits else None
    if given_alone != known:
        show.write_json(run / runs.ALONE, given_alone)
    # The run's own table must not be replaced by another device's.
    if profile is None:
        show.write_json(run / runs.TRADEOFFS, table.to_json())
        plot_tradeoffs(table, run / runs.PLOT)
    if json:
        choice = {"chosen": chosen.skip, "ties": chosen.ties, "why": chosen.why} if chosen else {"chosen": None}
        show.as_json({**choice, "limits": limits, "front": [row.skip for row in table.front()], **table.to_json()})
        return
    typer.echo(table)
    judged_by = "--accuracy" if table.quality == TOP_1 else "--quality"
    typer.echo(chosen or f"No limit was given: choose with --latency-ms, --macs, {judged_by} ...")
    if profile is None:
        typer.echo(f"Written to {run / runs.TRADEOFFS} and {run / runs.PLOT}")


def _by_skip(texts: list[str]) -> dict[str, float]:
    """`["FFFF=76.7"]` as numbers by skip."""
    parsed = {}
    for text in texts:
        skip, _, value = text.partition("=")
        try:
            parsed[skip.strip()] = float(value)
        except ValueError as error:
            raise BudgetError(f"--alone {text!r}: expected SKIP=VALUE, such as FFFF=76.7") from error
    return parsed
