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
        str, typer.Argument(metavar="DIR|USER/NAME", help="Folder to write; with --push, a repository on the Hub.")
    ],
    push: Annotated[
        bool, typer.Option("--push", metavar="", help="Upload it to the Hub (first log in: hf auth login).")
    ] = False,
    private: Annotated[bool, typer.Option("--private", metavar="", help="Make a new repository private.")] = False,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Licence of the weights, such as apache-2.0.", show_default=False)
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="The model on the Hub that training started from.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Write a run for the Hugging Face Hub: config.json, weights and a model card.

    The card, README.md, contains the table of trade-offs that select wrote. Nothing leaves this machine without --push.

    Example: adaptive-depth share runs/demo shared/letters --license apache-2.0
    """
    if private and not push:
        raise typer.BadParameter("--private: only a repository can be private; add --push, or omit --private")
    if push and Path(target).expanduser().is_dir():
        raise typer.BadParameter(f"--push: {target} is a folder here; name the repository, USER/NAME")
    network = runs.open_run(run)
    table = _read_table(run)
    folder = Path(target).expanduser()
    before = _existing_metadata(folder)  # the options of an earlier call stay in the card
    given = {"license": license or before.get("license"), "base_model": base_model or before.get("base_model")}
    content: dict[str, Any] = {
        "tradeoffs": table,
        "preprocessing": _read_preprocessing(run, network),
        "model_card_kwargs": {name: value for name, value in given.items() if value is not None},
    }
    url = None
    if push:
        # None instead of False: False would request a public repository.
        url = network.push_to_hub(target, private=private or None, commit_message="Share a network", **content)
    else:
        network.save_pretrained(folder, **content)
    if json:
        show.as_json({"run": str(run), "target": target, "url": url, "tradeoffs": table is not None})
        return
    if table is None:
        typer.echo(
            f"The card has no table of trade-offs: measure them with {show.command('profile', run)}, then "
            f"{show.command('select', run)}"
        )
    if push:
        typer.echo(f"Pushed to {target}: {url}")
        return
    typer.echo(f"Written to {folder}. Look at {folder / 'README.md'}, then upload the folder with one of")
    typer.echo(f"  {show.command('share', run, 'USER/NAME', '--push')}")
    typer.echo(f"  hf upload USER/NAME {folder}   (keeps your changes to the card)")


def _existing_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a card that is already in the folder."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(folder / "README.md").data.to_dict()
    except Exception:  # noqa: BLE001 - no card, or an unreadable one: there is nothing to keep
        return {}


def _read_table(run: Path) -> Any:
    """The trade-offs that select wrote; None if it was not called yet."""
    from ..choose.tradeoffs import TradeOffs

    if not (run / runs.TRADEOFFS).exists():
        return None
    fix = f"create it again with {show.command('select', run)}"
    read = runs.read_json(run / runs.TRADEOFFS, fix)
    try:
        table = TradeOffs.from_json(read)
    except MeasurementError as error:
        raise DataError(f"{run / runs.TRADEOFFS} is damaged ({error}): {fix}") from error
    if (run / runs.ACCURACY).exists() and (now := runs.read_accuracy(run)["quality"]) != table.quality:
        raise DataError(
            f"{run / runs.TRADEOFFS} is of {table.quality}, but the run has since been measured by {now}: {fix}"
        )
    return table


def _read_preprocessing(run: Path, network: Any) -> Any:
    """The preprocessing that the run was trained with; None for a run that a Python program saved."""
    from ..data import check_fit, check_input

    if not (run / runs.DATA).exists():
        return None
    config = runs.read_data(run)
    (check_fit if tasks.names_classes(run) else check_input)(network, config)
    return runs.with_outputs_named(run, config)
