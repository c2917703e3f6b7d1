"""adaptive-depth share: a trained network for the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError, MeasurementError
from . import runs, show, tasks
from .evaluate import Run
from .stages import Json


def share(
    run: Run,
    target: Annotated[
        str, typer.Argument(metavar="DIR|USER/NAME", help="A folder to write; with --push, a repository of the Hub.")
    ],
    push: Annotated[
        bool, typer.Option("--push", help="Put it on the Hub (log in before with: hf auth login).")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the weights, such as apache-2.0.", show_default=False)
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="The Hub's model that training started from.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Write a run as the Hugging Face Hub wants it: config.json, model.safetensors, and a model card in README.md.

    The card has the table of trade-offs that select wrote. Nothing leaves this machine without --push.

    Example: adaptive-depth share runs/demo shared/letters --license apache-2.0
    """
    if private and not push:
        raise typer.BadParameter("--private: only a repository can be private; add --push, or leave it out")
    if push and Path(target).expanduser().is_dir():
        raise typer.BadParameter(f"--push: {target} is a folder here; name the repository, USER/NAME")
    network = runs.open_run(run)
    table = _read_table(run)
    folder = Path(target).expanduser()
    before = _told_before(folder)  # what an earlier call was told stays
    given = {"license": license or before.get("license"), "base_model": base_model or before.get("base_model")}
    content: dict[str, Any] = {
        "tradeoffs": table,
        "preprocessing": _read_preprocessing(run, network),
        "model_card_kwargs": {name: value for name, value in given.items() if value is not None},
    }
    url = None
    if push:
        url = network.push_to_hub(target, private=private or None, commit_message="Share a network", **content)
    else:
        network.save_pretrained(folder, **content)
    if json:
        show.as_json({"run": str(run), "target": target, "url": url, "tradeoffs": table is not None})
        return
    if table is None:
        typer.echo(
            f"The card has no table of trade-offs: measure it with {show.command('profile', run)}, then "
            f"{show.command('select', run)}"
        )
    if push:
        typer.echo(f"Pushed to {target}: {url}")
        return
    typer.echo(f"Written to {folder}. Look at {folder / 'README.md'}; then put the folder on the Hub with either of")
    typer.echo(f"  {show.command('share', run, 'USER/NAME', '--push')}")
    typer.echo(f"  hf upload USER/NAME {folder}   (with what you changed in the card)")


def _told_before(folder: Path) -> dict[str, Any]:
    """The metadata of the card that stands in a folder already."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(folder / "README.md").data.to_dict()
    except Exception:  # noqa: BLE001 - of YAML, of the card's fields, of the system: it tells nothing that can be kept
        return {}


def _read_table(run: Path) -> Any:
    """The trade-offs that select wrote; None where it was not called yet."""
    from ..choose.tradeoffs import TradeOffs

    if not (run / runs.TRADEOFFS).exists():
        return None
    mend = f"measure it anew with {show.command('select', run)}"
    read = runs.read_json(run / runs.TRADEOFFS, mend)
    try:
        table = TradeOffs.from_json(read)
    except MeasurementError as error:
        raise DataError(f"{run / runs.TRADEOFFS} is damaged ({error}): {mend}") from error
    if (run / runs.ACCURACY).exists() and (now := runs.read_accuracy(run)["quality"]) != table.quality:
        raise DataError(
            f"{run / runs.TRADEOFFS} is of {table.quality}, and the run was measured by {now} since: {mend}"
        )
    return table


def _read_preprocessing(run: Path, network: Any) -> Any:
    """What the run was trained with; None for a run that a program saved."""
    from ..data import check_fit, check_input

    if not (run / runs.DATA).exists():
        return None
    config = runs.read_data(run)
    (check_fit if tasks.names_classes(run) else check_input)(network, config)
    return runs.with_outputs_named(run, config)
