"""adaptive-depth text: language models on the command line."""

import typer

from .chat import chat
from .complete import complete
from .table import table
from .train import train

text = typer.Typer(add_completion=False, help="Language models: train all depths on a text, compare them, write text.")
for _command in (train, table, complete, chat):
    text.command()(_command)


@text.callback(invoke_without_command=True)
def _overview(context: typer.Context) -> None:
    """Language models: train all depths of one on a text, compare them, let one of them write.

    Start from a folder of transformers (config.json, safetensors, a tokenizer); nothing is downloaded.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
