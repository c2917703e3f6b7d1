"""adaptive-depth text: the commands for language models."""

import typer

from ..show import help_of
from .chat import chat
from .complete import complete
from .table import table
from .train import train

text = typer.Typer(add_completion=False)
for _command in (train, table, complete, chat):
    text.command(help=help_of(_command))(_command)


def _overview(context: typer.Context) -> None:
    """Language models: train all depths on a text, compare them and generate text.

    Start from a folder in the format of transformers (config.json, safetensors, tokenizer); nothing is downloaded.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


text.callback(invoke_without_command=True, help=help_of(_overview))(_overview)
