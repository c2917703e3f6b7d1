"""adaptive-depth serve: answer requests over HTTP, each at a depth that the queue allows."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from ..schema import from_plain
from . import runs, show
from .language import folders
from .opening import Backend, Providers, Threads, open_source, positive, providers_of

if TYPE_CHECKING:
    from ..serve.batching import Device
    from ..serve.metrics import Metrics
    from ..serve.opening import Settings
    from ..serve.predicting import Predictor
    from ..serve.text.writing import Writer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def serve(
    artifacts: Annotated[
        list[str],
        typer.Argument(
            metavar="ARTIFACT...",
            help="What export wrote (.onnx, .xml, .pte), a run folder, or a folder of text train; NAME=ARTIFACT sets "
            "its name.",
            show_default=False,
        ),
    ],
    target_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS", help="Deadline, from the complete request to its answer, in milliseconds.", show_default=False
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="IP", help="Address to listen on; 0.0.0.0 for the whole network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0 for any free port.")] = 8000,
    local: Annotated[
        bool, typer.Option("--local", metavar="", help="Run in this process, without Ray: for development.")
    ] = False,
    skip: Annotated[
        str | None, typer.Option(metavar="TTFF", help="This depth for all requests.", show_default=False)
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, max=1024, metavar="N", help="Maximum requests per batch.", rich_help_panel="Queue")
    ] = 8,
    max_waiting: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, metavar="N", help="Maximum waiting requests; more are refused.", rich_help_panel="Queue"
        ),
    ] = 256,
    shed: Annotated[
        str,
        typer.Option(
            metavar="oldest|newest|none",
            help="Which requests to turn away under overload.",
            rich_help_panel="Queue",
        ),
    ] = "oldest",
    worth: Annotated[
        str | None,
        typer.Option(
            metavar="F=90,T=70",
            help="Worth of an answer at each depth, if quality is not in percent.",
            show_default=False,
            rich_help_panel="Queue",
        ),
    ] = None,
    ms_per_token: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="Choose a depth that takes at most this long per token.",
            show_default=False,
            rich_help_panel="Language models",
        ),
    ] = None,
    first_token_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="Choose a depth that starts a text within this time.",
            show_default=False,
            rich_help_panel="Language models",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(metavar="", help="Measure latencies here first; else use the table's.", rich_help_panel="Device"),
    ] = True,
    replicas: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes per model, on Ray.", rich_help_panel="Device")
    ] = 1,
    backend: Backend = None,
    threads: Threads = None,
    providers: Providers = None,
    max_megabytes: Annotated[
        float, typer.Option(metavar="X", help="Largest request body.", rich_help_panel="Requests")
    ] = 16.0,
    max_megapixels: Annotated[
        float, typer.Option(metavar="X", help="Largest image.", rich_help_panel="Requests")
    ] = 64.0,
    max_seconds: Annotated[
        float, typer.Option(metavar="X", help="Longest time for a body to arrive.", rich_help_panel="Requests")
    ] = 10.0,
) -> None:
    """Answer requests over HTTP, each at the best depth that the queue allows.

    The latency of every depth is measured on this machine first, alone and in batches. Then waiting requests run
    together, deeper if there is time and shallower if there is not. A request may set its skip, its deadline_ms or the
    accuracy it needs. Ctrl-C finishes the requests in progress and stops.

    Example: adaptive-depth serve runs/demo/export/model.onnx --target-ms 50
    """
    from ..serve.inputs import Limits
    from ..serve.local import address_of, bound, serve_here
    from ..serve.opening import Settings

    named = _named(artifacts)
    texts = {name: path for name, path in named.items() if folders.has_tokenizer(path)}
    if target_ms is None and texts.keys() < named.keys():
        raise typer.BadParameter("no target: expected --target-ms, such as adaptive-depth serve A.onnx --target-ms 50")
    limits = Limits(_whole("--max-megabytes", max_megabytes, 1e6), _whole("--max-megapixels", max_megapixels, 1e6),
                    positive("--max-seconds", max_seconds))  # fmt: skip
    # Without image models the target is not used.
    target = 1000.0 if target_ms is None else positive("--target-ms", target_ms)
    settings = Settings(target, max_batch, max_waiting, shed, skip, _worth(worth), measure, limits)
    text_limits = {"first_token_ms": first_token_ms, "token_ms": ms_per_token}
    for option, value in (("--first-token-ms", first_token_ms), ("--ms-per-token", ms_per_token)):
        if value is not None:
            positive(option, value)
    if local and replicas != 1:
        raise typer.BadParameter(f"--replicas {replicas} are for Ray: expected 1 with --local, or no --local")
    listening = bound(host, port)  # before measuring, so that a port in use is reported at once
    where = address_of(listening)

    def announce() -> None:
        for name in named:
            place = f"/v1/completions (model {name})" if name in texts else f"/models/{name}/predict"
            typer.echo(f"{where}{place}", err=True)
        first = next(iter(named))
        example = "/v1/models" if first in texts else f"/models/{first}/predict --data-binary @photo.jpg"
        typer.echo(f"Ready. Try: curl {where}{example}", err=True)

    models = {
        name: partial(open_text, name, path.resolve(), skip, text_limits, threads)
        if name in texts
        else partial(open_one, name, path.resolve(), settings, backend, threads, providers_of(providers))
        for name, path in named.items()
    }
    if local:
        with listening:
            serve_here(partial(_opened, models, texts), listening, limits=limits, on_ready=announce)
    else:
        free = listening.getsockname()[:2]  # closed again, because Ray binds the port in its own process
        listening.close()
        _on_ray(models, texts, settings, replicas, free, announce)
    typer.echo("Stopped.", err=True)


def _opened(
    models: "Mapping[str, Callable[..., Any]]", texts: Mapping[str, Path], metrics: "Metrics"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The image models, which take turns in this process, and the text models."""
    from ..serve.batching import Device

    device = Device()
    images = {name: each(metrics, device) for name, each in models.items() if name not in texts}
    return images, {name: each(metrics) for name, each in models.items() if name in texts}


def open_one(
    name: str,
    path: Path,
    settings: "Settings",
    backend: str | None,
    threads: int | None,
    providers: list[str] | None,
    metrics: "Metrics",
    device: "Device | None" = None,
) -> "Predictor":
    """A model ready to answer, in whichever process this runs."""
    from ..serve.opening import open_predictor

    session, known = open_source(path, backend, threads, judged=settings.skip is None, providers=providers)
    with show.progress(f"measuring {len(session.skips)} depths of {name} on this machine") as advance:
        return open_predictor(name, session, known, settings, metrics=metrics, device=device, on_round=advance)


def open_text(
    name: str, path: Path, skip: str | None, limits: Mapping[str, float | None], threads: int | None, metrics: "Metrics"
) -> "Writer":
    """A language model ready to answer, in whichever process this runs."""
    from ..serve.text.writing import TextSettings, Writer

    if threads is not None:
        import torch

        # Never restored, because this process only serves.
        torch.set_num_threads(threads)
    opened = folders.open_network(path)
    table = runs.trade_offs(path) if runs.is_measured(path) else None
    return Writer(
        name,
        opened.model,
        opened.tokenizer,
        table=table,
        settings=TextSettings(skip, limits["first_token_ms"], limits["token_ms"]),
        watch=metrics.of(name),
    )


def application(args: dict[str, Any]) -> Any:
    """The application for Ray's configuration files: `import_path: adaptive_depth.cli.serve:application`.

    Arguments:
        args: of the file: `artifacts` by name, `target_ms`, and optionally `backend`, `threads`, `providers` (a list)
            and fields of `Settings`. Replicas and autoscaling belong under `deployments` of the file.

    Raises:
        DataError: an entry is missing or unknown.
    """
    from ..serve.on_ray import Deployed, ray_application
    from ..serve.opening import Settings

    given = ("backend", "threads", "providers")
    own = {name: value for name, value in args.items() if name not in ("artifacts", *given)}
    settings = from_plain(Settings, own, DataError, "args")
    artifacts = from_plain(dict[str, str], args.get("artifacts"), DataError, "artifacts")
    return ray_application(
        {
            name: Deployed(
                partial(open_one, name, Path(path), settings, *(args.get(each) for each in given)),
                settings.most_waiting,
            )
            for name, path in artifacts.items()
        },
        settings.limits,
    )


def _on_ray(
    models: "Mapping[str, Callable[[Metrics], Any]]",
    texts: Mapping[str, Path],
    settings: "Settings",
    replicas: int,
    where: tuple[str, int],
    announce: "Callable[[], None]",
) -> None:
    from ..serve.local import told_to_stop
    from ..serve.on_ray import Deployed, cluster, deploy, metrics_address, ray_application

    deployed = {
        name: Deployed(each, settings.most_waiting, name in texts, {"num_replicas": replicas})
        for name, each in models.items()
    }
    with cluster(), told_to_stop() as stop:
        _check_processors(len(models) * replicas)
        typer.echo(f"Starting {replicas} x {len(models)} models on Ray ...", err=True)
        deploy(ray_application(deployed, settings.limits), *where)
        if address := metrics_address():
            typer.echo(f"Metrics: {address}", err=True)
        announce()
        stop.wait()
        typer.echo("Finishing the requests in progress ...", err=True)


def _check_processors(wanted: int) -> None:
    """Each replica takes a processor: Ray would wait forever for one that does not exist."""
    import ray

    there = int(ray.cluster_resources().get("CPU", 0))
    if wanted > there:
        raise typer.BadParameter(
            f"{wanted} replicas take a processor each, but this cluster has {there}: expected fewer --replicas, or "
            "--local for one process"
        )


def _named(artifacts: list[str]) -> dict[str, Path]:
    """Artifacts by the names that they are served under: as given, or the names of their files or runs."""
    found: dict[str, Path] = {}
    for given in artifacts:
        name, equals, rest = given.partition("=")
        # A file's own name may contain "=".
        if not equals or Path(given).exists():
            path = Path(given)
            name = path.stem if path.is_file() or path.suffix in (".onnx", ".xml", ".pte") else path.resolve().name
        else:
            path = Path(rest)
        if not _NAME.fullmatch(name):
            raise typer.BadParameter(f"{name!r} cannot be part of a URL: give it a name, such as cats={path}")
        if name in found:
            raise typer.BadParameter(
                f"{found[name]} and {path} are both called {name}: rename one, such as other={path}"
            )
        found[name] = path
    return found


def _whole(option: str, value: float, unit: float) -> int:
    # Integers up to 2^52 are exact as floats.
    return max(1, round(min(positive(option, value) * unit, 1 << 52)))


def _worth(text: str | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in (text or "").split(",") if text else []:
        skip, _, number = part.partition("=")
        try:
            found[skip.strip()] = float(number)
        except ValueError as error:
            raise typer.BadParameter(f"--worth {text}: expected a number for each depth, such as F=90,T=70") from error
    return found
