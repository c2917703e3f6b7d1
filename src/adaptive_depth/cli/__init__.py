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
from .stages import stages
from .train import train

_UsageError: Any = typer.BadParameter.__mro__[2]  # Typer's "the command line is wrong", which it does not export

_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC)  # of the machine, not of this program
_INTERRUPTED = 130  # what Typer makes of Ctrl-C

app = typer.Typer(
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    demo,
    stages,
    train,
    evaluate,
    profile,
    select,
    analyze,
    report,
    export,
    run,
    serve,
    share,
    load_reference,
):
    app.command()(_command)
app.add_typer(text, name="text")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"adaptive-depth {version('adaptive-depth')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _overview(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train a residual network once, and choose its depth at run time.

    Start with  adaptive-depth demo  (about three minutes, no download), or look at what a model offers with
    adaptive-depth stages resnet50. On your own data: train, evaluate, profile, then select;
    for another runtime: export, then run; for many clients: serve.
    """
    if context.invoked_subcommand is None and not version:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0, or 2 with one line on stderr for what the user can mend."""
    try:
        status = app(arguments, prog_name="adaptive-depth", standalone_mode=False) or 0
        said = "interrupted; what was written before is kept" if status == _INTERRUPTED else ""
    except AdaptiveDepthError as error:
        said, status = str(error), 2
    except ModuleNotFoundError as error:
        if (told := missing(error, "this command")) is None:
            raise
        said, status = str(told), 2
    except _UsageError as error:
        said, status = error.format_message(), 2
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        said, status = f"{error.filename or 'a file'} cannot be written ({error.strerror}): nothing else was lost", 2
    except RuntimeError as error:
        if os.environ.get("WORLD_SIZE", "1") == "1" or not any(name in str(error) for name in ("gloo", "NCCL")):
            raise
        said, status = "another process of this training ended: the reason is what it said", 2
    if said:
        print(f"Error: {' '.join(said.split())}", file=sys.stderr)  # noqa: T201
    return status
