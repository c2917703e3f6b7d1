"""The commands: one thin file each. Libraries that load slowly are imported inside the commands that need them."""

import errno
import os
import sys
from typing import Annotated, Any

import typer

from ..errors import AdaptiveDepthError
from ..packages import missing
from .analyze import analyze
from .demo import demo
from .evaluate import evaluate
from .export import export
from .language import text
from .profiling import profile
from .reference import load_reference
from .report import report
from .run import run
from .selecting import select
from .serve import serve
from .share import share
from .show import help_of
from .stages import stages
from .train import train

_UsageError: Any = typer.BadParameter.__mro__[2]  # the base class of all wrong command lines; Typer does not export it

_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC)  # caused by the machine, not by a bug here
_INTERRUPTED = 130  # the status that Typer returns after Ctrl-C

app = typer.Typer(
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_GROUPS = {
    "Train and measure": (demo, stages, train, evaluate, profile, select, analyze, report),
    "Deploy": (export, run, serve),
    "Share and more": (share, load_reference),
}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        app.command(help=help_of(_command), rich_help_panel=_group)(_command)
app.add_typer(text, name="text", rich_help_panel="Train and measure")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"adaptive-depth {version('adaptive-depth')}")
        raise typer.Exit


def _overview(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train a residual network once and choose its depth at run time.

    Start with  adaptive-depth demo  (about three minutes, no download), or see the depths of a model with
    adaptive-depth stages resnet50. On your own data: train, evaluate, profile, then select.
    For another runtime: export, then run. For many clients: serve.
    """
    if context.invoked_subcommand is None and not version:
        typer.echo(context.get_help())


app.callback(invoke_without_command=True, help=help_of(_overview))(_overview)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0, or 2 with one line on stderr if the user can fix the error."""
    try:
        # Not standalone, so that errors arrive here instead of ending the process.
        status = app(arguments, prog_name="adaptive-depth", standalone_mode=False) or 0
        if status == _INTERRUPTED:
            print("Interrupted: everything written so far is kept", file=sys.stderr)  # noqa: T201
        message = ""
    except AdaptiveDepthError as error:
        message, status = str(error), 2
    except ModuleNotFoundError as error:
        if (explained := missing(error, "this command")) is None:
            raise
        message, status = str(explained), 2
    except _UsageError as error:
        # Where an option is named, click writes "Invalid value for '--lr': ..."; our own texts name it themselves.
        message, status = error.format_message().removeprefix("Invalid value: "), 2
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        message = f"{error.filename or 'a file'} cannot be written ({error.strerror}): nothing else was lost"
        status = 2
    except RuntimeError as error:
        if os.environ.get("WORLD_SIZE", "1") == "1" or not any(name in str(error) for name in ("gloo", "NCCL")):
            raise
        # gloo and NCCL report only that the connection broke; the process that failed prints the reason.
        message, status = "another process of this training failed: see its own error message", 2
    if message:
        print(f"Error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return status
