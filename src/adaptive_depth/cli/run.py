"""adaptive-depth run: images through an exported file, at the depth that meets a deadline."""

import json as json_module
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArtifactError, DataError
from ..quality import TOP_1, Quality
from . import runs, show, summing_up
from .opening import Backend, Providers, Threads, open_source, positive, providers_of
from .stages import Json

if TYPE_CHECKING:
    from ..choose.tradeoffs import TradeOffs
    from ..deploy.artifact import Artifact, Preprocessing
    from ..deploy.drawing import Drawer
    from ..deploy.session import Session
    from ..deploy.sources import Source
    from ..deploy.streaming import Chooser, Pass, Tally
    from ..governor.decisions import Decision
    from ..governor.scheduler import DepthScheduler
    from ..meaning import Detections

_SCORE = 0.25  # the least score of an object that is reported
_DECIDED, _PREDICTED = b'{"number"', b'{"image"'  # how the lines of --log and --predictions begin


def run(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT", help="What export wrote (.onnx, .xml, .pte), or a run folder.", show_default=False
        ),
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Image files, folders, camera, camera:1 or camera:FILM.mp4.",
            show_default=False,
        ),
    ] = None,
    target_ms: Annotated[
        float | None,
        typer.Option(metavar="MS", help="Deadline of a pass of the network, in milliseconds.", show_default=False),
    ] = None,
    images_per_s: Annotated[
        float | None,
        typer.Option(metavar="X", help="Deadline as passes per second, instead of --target-ms.", show_default=False),
    ] = None,
    skip: Annotated[
        str | None, typer.Option(metavar="TTFF", help="This depth for all images, no governor.", show_default=False)
    ] = None,
    met: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=0.9999,
            metavar="SHARE",
            help="Share of images that should meet the deadline; 0.95 by default.",
            show_default=False,
        ),
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Go through the images N times.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="X", help="Repeat the images for X seconds.", show_default=False)
    ] = None,
    json: Json = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a line of JSON per pass: image, depth, latency and predictions.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the images with their predictions drawn: boxes, coloured pixels or text.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a line of JSON per decision of the governor.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="X",
            help="Minimum score of a detected object; 0.25 by default.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    pace: Annotated[
        float | None,
        typer.Option(
            metavar="PER_SECOND",
            help="Images arrive at this rate and wait while the network is busy.",
            show_default=False,
            rich_help_panel="Queue",
        ),
    ] = None,
    shed: Annotated[
        str | None,
        typer.Option(
            metavar="oldest|newest|none",
            help="With --pace or a camera: which images to turn away under overload.",
            show_default=False,
            rich_help_panel="Queue",
        ),
    ] = None,
    backend: Backend = None,
    threads: Threads = None,
    providers: Providers = None,
) -> None:
    """Run images through a network, each at the best depth that meets a deadline.

    The latency of every depth is measured on this machine first. Then a governor picks each depth from the latencies of
    the last images. Latency is that of the network alone; preparing an image (resizing, normalising) is reported
    separately, and reading its file counts in neither. Ctrl-C ends the run and prints the summary.

    With --pace, or with --shed and a camera, images wait in a queue, and a scheduler picks the depths. Deadlines then
    count from the arrival of an image until its outputs are read.

    The predictions of each image are printed above the summary. If images are in folders named after classes, the
    summary includes the accuracy.

    Example: adaptive-depth run runs/demo/export/model.onnx photos/ --target-ms 30
    """
    from ..deploy.predictions import Reader
    from ..deploy.preparing import prepare
    from ..deploy.queueing import stream_arrivals
    from ..deploy.sources import Camera, find_images, read_images
    from ..deploy.streaming import Fixed, Tally, stream
    from ..governor.governor import Governor

    target = _check(sources, target_ms, images_per_s, skip, repeat, seconds)
    queued = _check_queue(sources or [], pace, shed, target, met, log)
    if log is not None:
        _check_log(log, skip)
    if predictions is not None:
        _check_file("--predictions", predictions, _PREDICTED)
    found = find_images(sources or ())
    if draw is not None:
        _check_drawn(draw)
    session, known, preprocessing = _open(artifact, backend, threads, providers_of(providers), governed=skip is None)
    left_out = _LeftOut()
    pictures = read_images(found, left_out, repeat=None if seconds is not None else repeat or 1)
    first = next(pictures, None)
    if first is None:
        raise DataError(f"none of the images can be read: {next(iter(left_out.reported))}")
    table = _warmed_up(session, known, prepare(first.image, preprocessing)[None], skip, always=queued)
    detections = _scoring(session.artifact.detections, min_score)  # known only after the first pass
    known = replace(known, outputs=session.artifact.outputs, detections=detections)
    with _writing(log) as write, _writing(predictions) as keep:

        def decided(decision: "Decision") -> None:
            if write is not None:
                write(decision.to_json())

        quality = _quality(known)
        read = Reader.of(known, classes=quality == TOP_1)
        drawer = None if draw is None else _drawer(draw, known, found)
        # The first picture was taken for the warm-up.
        pictures = chain([first], pictures)
        if queued:
            assert table is not None
            assert target is not None
            chooser = _scheduler(table, target, shed, skip)
            passes = stream_arrivals(session, pictures, preprocessing, chooser, per_s=pace, read=read, draw=drawer)
        else:
            chooser = Fixed(skip or known.skips[0])
            if table is not None:
                chooser = Governor(table, target_ms=target, met=0.95 if met is None else met, on_decision=decided)
            passes = stream(session, pictures, preprocessing, chooser, read=read, draw=drawer)
        tally = Tally(target, _measured(known), quality)
        first_passes: dict[str, Pass] = {}
        seen = None if any(isinstance(source, Camera) for source in found) else first_passes
        total = _follow(_kept(passes, keep), tally, chooser, seconds, seen)
    total |= {"left_out": len(left_out.reported), "backend": session.backend}
    total |= summing_up.right_by_folders(first_passes.values(), known.labels)
    # The name of `expected` in version 0.1, which would be mistaken for what the folders' names give.
    total |= {"accuracy": total["expected"]} if quality == TOP_1 and "right" not in total else {}
    if json:
        each = [summing_up.prediction_of(passed, known.labels) for passed in first_passes.values()]
        show.as_json({**total, "predictions": each, "table": None if table is None else table.to_json()})
    else:
        for image, passed in first_passes.items():
            typer.echo(f"{image}  {passed.skip}  {'; '.join(map(str, passed.predictions))}")
        typer.echo(summing_up.in_words(total, tally))
        for note in summing_up.why_few(total, pace):
            typer.echo(note)
    # Last, so that everything up to the failure has been shown.
    if total["error"] is not None:
        raise ArtifactError(total["error"])


class _LeftOut:
    """Reports each image that is left out, once."""

    def __init__(self) -> None:
        self.reported: dict[str, None] = {}

    def __call__(self, error: DataError) -> None:
        if str(error) not in self.reported:
            self.reported[str(error)] = None
            _report(f"Left out: {error}")


def _report(note: str) -> None:
    sys.stderr.write(f"{note}\n")  # looked up at each call, because a live view replaces sys.stderr meanwhile


# -- before -----------------------------------------------------------------------------------------------------


def _check(
    sources: list[str] | None,
    target_ms: float | None,
    images_per_s: float | None,
    skip: str | None,
    repeat: int | None,
    seconds: float | None,
) -> float | None:
    """The deadline in milliseconds; None if one depth runs without a deadline."""
    example = "adaptive-depth run model.onnx photos/ --target-ms 30"
    if not sources:
        raise typer.BadParameter(f"no images given: expected files, folders or camera, such as {example}")
    numbers = {"--target-ms": target_ms, "--images-per-s": images_per_s, "--seconds": seconds}
    for option, value in numbers.items():
        if value is not None:
            positive(option, value)
    if target_ms is not None and images_per_s is not None:
        raise typer.BadParameter("--target-ms and --images-per-s: give only one of them")
    if target_ms is None and images_per_s is None and skip is None:
        raise typer.BadParameter(f"no deadline: expected --target-ms or --images-per-s ({example}), or one --skip")
    if repeat is not None and seconds is not None:
        raise typer.BadParameter("--repeat and --seconds: give only one of them")
    return target_ms if images_per_s is None else 1000 / images_per_s


def _check_queue(
    sources: list[str], pace: float | None, shed: str | None, target: float | None, met: float | None, log: Path | None
) -> bool:
    """Do images wait in a queue?"""
    # A film, unlike a camera, waits until its next image is read.
    cameras = any(each == "camera" or (each.startswith("camera:") and each[7:].isdecimal()) for each in sources)
    if pace is not None:
        positive("--pace", pace)
        if cameras:
            raise typer.BadParameter("--pace: a camera has its own pace; for its images, give only --shed")
    if shed not in (None, "oldest", "newest", "none"):
        raise typer.BadParameter(f"--shed {shed}: expected oldest, newest or none")
    if shed is not None and pace is None and not cameras:
        raise typer.BadParameter(
            "--shed: images from files do not wait, each is read when the one before is done; add --pace, such as "
            "--pace 25 for 25 images per second"
        )
    queued = pace is not None or shed is not None
    if queued and target is None:
        raise typer.BadParameter("--pace and --shed need a deadline: expected --target-ms")
    if queued and met is not None:
        raise typer.BadParameter("--met is for the governor: with --pace or --shed, a scheduler plans the queue")
    if queued and log is not None:
        raise typer.BadParameter("--log writes a governor's decisions: with --pace or --shed there is no governor")
    return queued


def _scheduler(table: "TradeOffs", target: float, shed: str | None, skip: str | None) -> "DepthScheduler":
    """For a queue; with a single depth, every answer is worth the same."""
    from ..governor.scheduler import DepthScheduler

    turned_away, percent = shed if shed in ("oldest", "newest") else None, table.quality.unit == "%"
    if skip is None and not (percent and table.quality.higher_is_better):
        raise DataError(
            f"the worth of an answer in time does not follow from {table.quality}, so depths cannot be planned for a "
            "queue: run without --pace and --shed, or one depth with --skip; in Python, DepthScheduler takes worth=..."
        )
    return DepthScheduler(table, target, max_batch=1, shed=turned_away, worth=None if skip is None else {skip: 1.0})


def _check_log(log: Path, skip: str | None) -> None:
    if skip is not None:
        raise typer.BadParameter("--log writes a governor's decisions: with --skip there is no governor")
    _check_file("--log", log, _DECIDED)


def _check_file(option: str, file: Path, begins: bytes) -> None:
    """Raise if a file cannot be written, or holds something other than the output of an earlier run."""
    if file.is_dir() or not file.absolute().parent.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise typer.BadParameter(f"{option} {file} cannot be written: name a file in a folder that exists")
    if file.exists() and file.stat().st_size and not file.read_bytes().startswith(begins):
        raise typer.BadParameter(f"{option} {file} has other content, which would be lost: name another file")


def _check_drawn(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise typer.BadParameter(
            f"--draw {folder} is a file or not empty, so something could be lost: name a new folder"
        )
    runs.check_writable(folder.absolute().parent, "name a folder elsewhere with --draw")


def _drawer(folder: Path, known: "Artifact", sources: "Iterable[Source]") -> "Drawer":
    from ..deploy.drawing import Drawer

    files = [source.parent for source in sources if isinstance(source, Path)]
    below = Path(os.path.commonpath(files)) if files else None
    return Drawer(folder, known.labels, known.meanings, below)


def _open(
    artifact: Path, backend: str | None, threads: int | None, providers: list[str] | None, *, governed: bool
) -> "tuple[Session, Artifact, Preprocessing]":
    """A session, what is known of its network, and the preprocessing for its input size."""
    session, known = open_source(artifact, backend, threads, judged=governed, providers=providers)
    known.check_image("run")
    if governed and known.trade_offs is None:
        raise DataError(
            f"{artifact} does not contain the quality of its depths, by which a governor chooses: measure it with "
            f"adaptive-depth evaluate RUN and profile RUN, then export again; or run one depth, with --skip "
            f"{known.skips[0]}"
        )
    batch, _, *sides = known.input_shape
    if batch not in (None, 1):
        raise ArtifactError(
            f"{artifact} takes {batch} images at a time, but run passes one: export with --batch-size 1"
        )
    if known.preprocessing is None:
        raise ArtifactError(
            f"{artifact} does not say how images are prepared: export a run that train or demo wrote, with its images"
        )
    return session, known, _of_size(known.preprocessing, *sides)


def _of_size(preprocessing: "Preprocessing", height: int | None, width: int | None) -> "Preprocessing":
    """The same for the size that a file takes, if it takes only one."""
    if height is None or width is None:
        return preprocessing
    return preprocessing.of_size(height, width)


def _warmed_up(session: "Session", known: "Artifact", x: Any, skip: str | None, *, always: bool) -> "TradeOffs | None":
    """The table with latencies of this machine. A single depth is run twice as a warm-up; its table is None unless
    `always` is set.
    """
    from ..choose.tradeoffs import Row, TradeOffs
    from ..governor.latency import measure_latencies, with_latencies

    table = known.own_trade_offs() if skip is None else None
    if skip is not None:
        for _ in range(2):
            session(x, skip)
        if not always:
            return None
        # Its quality is irrelevant, because there is nothing to choose.
        table = TradeOffs((Row(skip, 0.0, 0, 0),))
    assert table is not None
    skips = [row.skip for row in table.rows if row.skip in session.skips]
    with show.progress(f"measuring {len(skips)} depths on this machine") as advance:
        latencies = measure_latencies(session, x, skips, on_round=advance)
    return with_latencies(table, latencies, device={"backend": session.backend})


# -- during the run ---------------------------------------------------------------------------------------------


def _follow(
    passes: "Iterable[Pass]",
    tally: "Tally",
    chooser: "Chooser | DepthScheduler",
    seconds: float | None,
    first_passes: "dict[str, Pass] | None",
) -> dict[str, Any]:
    """Run all images, or until the time is over or the user interrupts; returns the summary for JSON.

    Arguments:
        first_passes: receives the first pass of each image; None for an endless source.
    """
    from .live import watching

    start, ended = perf_counter(), {"interrupted": False, "error": None}
    with watching() as view:
        try:
            for passed in passes:
                tally.add(passed)
                if first_passes is not None and passed.error is None and not passed.shed:
                    first_passes.setdefault(passed.image, passed)
                if passed.error is not None and tally.failures_in_a_row == 1:  # a lasting failure is reported once
                    _report(f"Failed: {passed.image}: {passed.error}")
                view.show(passed, tally, getattr(chooser, "slowdown", None))
                if seconds is not None and perf_counter() - start >= seconds:
                    break
        except KeyboardInterrupt:
            ended["interrupted"] = True
        except ArtifactError as error:
            ended["error"] = str(error)
    return {**tally.summary().to_json(), "seconds": perf_counter() - start, **ended}


def _quality(known: "Artifact") -> Quality:
    return known.quality if known.trade_offs is None else known.trade_offs.quality


def _measured(known: "Artifact") -> dict[str, float]:
    """The quality of each depth; that of the file itself (int8) takes precedence over that of the float network."""
    rows = () if known.trade_offs is None else known.trade_offs.rows
    own = known.accuracy if known.quality == _quality(known) else None
    return {row.skip: row.accuracy for row in rows} | (own or {})


def _scoring(detections: "Detections | None", least: float | None) -> "Detections | None":
    """Raise the score threshold: a detector's own is low, because its metric needs all boxes, but readers do not."""
    if detections is None:
        if least is not None:
            raise typer.BadParameter("--min-score applies to detected objects: expected a file or run of a detector")
        return None
    return replace(detections, threshold=max(detections.threshold, _SCORE) if least is None else least)


@contextmanager
def _writing(path: Path | None) -> "Iterator[Callable[[Mapping[str, Any]], None] | None]":
    """A function that writes plain values to a file, a line of JSON each; None if there is no file."""
    if path is None:
        yield None
        return
    # Not replaced atomically, because an interrupted run keeps its lines.
    with path.open("w", encoding="utf-8") as file:
        yield lambda value: print(json_module.dumps(value), file=file)


def _kept(passes: "Iterable[Pass]", write: "Callable[[Mapping[str, Any]], None] | None") -> "Iterator[Pass]":
    """The same passes, each written before it is passed on, so that an interrupted run keeps its results."""
    for passed in passes:
        if write is not None:
            write(summing_up.as_json(passed))
        yield passed
