"""A session for what a command line names: an exported file, or a run folder with its measurements."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import runs, tasks

if TYPE_CHECKING:
    from ..core.network import AdaptiveNetwork
    from ..deploy.artifact import Artifact
    from ..deploy.session import Session


Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="onnxruntime, openvino, executorch, eager or compiled; by default the file's own.",
        rich_help_panel="Device",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="CPU threads; the backend's default if not given.",
        show_default=False,
        rich_help_panel="Device",
    ),
]
Providers = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Execution providers of ONNX Runtime, or a device of OpenVINO; the CPU by default.",
        show_default=False,
        rich_help_panel="Device",
    ),
]


def positive(option: str, value: float) -> float:
    """The value of an option, which must be a finite number above 0."""
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{option} {value}: expected a finite number above 0")
    return value


def providers_of(named: str | None) -> list[str] | None:
    """ONNX Runtime's names in order, or a device of OpenVINO, which may itself contain commas (`AUTO:GPU,CPU`)."""
    if named is None or ":" in named:
        return None if named is None else [named]
    return [name.strip() for name in named.split(",")]


def open_source(
    artifact: Path, backend: str | None, threads: int | None, *, judged: bool, providers: list[str] | None = None
) -> "tuple[Session, Artifact]":
    """A session, and what is known of its network.

    Arguments:
        artifact: what export wrote, or a run folder.
        backend, threads, providers: as of `open_session`.
        judged: must the quality of its depths be known? Not checked here for a file.
    """
    from ..deploy.session import open_session

    if not runs.is_run(artifact):
        session = open_session(artifact, backend=backend, threads=threads, providers=providers)
        return session, session.artifact
    runs.check_of_images(artifact)
    network = runs.open_run(artifact)
    session = open_session(network, backend=backend, threads=threads, providers=providers)
    return session, _of_run(session.artifact, artifact, network, judged=judged)


def _of_run(artifact: "Artifact", run: Path, network: "AdaptiveNetwork", *, judged: bool) -> "Artifact":
    from ..deploy.detectors import usual_meanings

    known = replace(artifact, trade_offs=runs.trade_offs(run) if judged or runs.is_measured(run) else None)
    if not (run / runs.DATA).exists():  # saved by a program
        return known
    data = runs.with_outputs_named(run, runs.read_data(run))
    means = tasks.meanings_of(run) or usual_meanings(network.model)
    return replace(known, preprocessing=data.preprocessing, labels=data.preprocessing.classes, meanings=means)
