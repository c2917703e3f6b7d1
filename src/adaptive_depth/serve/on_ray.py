"""The application on Ray Serve: an ingress, and for each model a deployment with its own replicas."""

import asyncio
import importlib
import importlib.util
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, BudgetError, one_line
from .application import application
from .inputs import Limits
from .metrics import Metrics, OfRay
from .predicting import About, Asked, Predictor, Reply
from .problems import Problem

if TYPE_CHECKING:
    from .text.asking import TextAsked
    from .text.pieces import Piece

INGRESS = "http"
DRAIN_S = 30.0
_TRIES = 2  # replicas tried if one dies with a request: the request may be the cause
_PATIENCE_S = 1.0  # for a replica to report its status
_MOST_AT_ONCE = 1024  # requests in an ingress
_QUIET = {"log_level": "WARNING"}


@dataclass(frozen=True)
class Deployed:
    """A model for Ray to run.

    Attributes:
        open: called in each replica with its metrics; returns the model, a `Predictor` or a `Writer`.
        waiting: the most requests that wait in a replica; as many again wait for one.
        text: whether it is a language model.
        options: of Ray Serve's `deployment`: `num_replicas`, `autoscaling_config`, `ray_actor_options`, ...
    """

    open: Callable[[Metrics], Any]
    waiting: int = 256
    text: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Replica:
    """A model in a Ray process: measures itself, and answers until it has drained."""

    async def __init__(self, open_model: Callable[[Metrics], Predictor]) -> None:
        # In a thread, so that Ray's health checks are answered meanwhile.
        self._model = await asyncio.to_thread(open_model, Metrics(OfRay()))
        await self._model.__aenter__()

    async def about(self) -> About:
        return await self._model.about()

    async def status(self) -> tuple[bool, bool]:
        return await self._model.status()

    async def predict(self, asked: Asked) -> Reply | Problem:
        try:
            return await self._model.predict(asked)
        except Problem as problem:  # as a value: Ray wraps and logs exceptions
            return problem

    async def check_health(self) -> None:
        """Ray restarts a replica whose network no longer responds."""
        healthy, _ = await self._model.status()
        if not healthy:
            raise RuntimeError("the network no longer responds")

    # Ray awaits it when it stops a replica.
    async def __del__(self) -> None:
        if hasattr(self, "_model"):
            await self._model.stop()


class TextReplica:
    """A language model in a Ray process."""

    async def __init__(self, open_model: Callable[[Metrics], Any]) -> None:
        self._model = await asyncio.to_thread(open_model, Metrics(OfRay()))

    async def about(self) -> About:
        return await self._model.about()

    async def status(self) -> tuple[bool, bool]:
        return await self._model.status()

    async def write(self, asked: "TextAsked") -> "AsyncIterator[Piece | Problem]":
        try:
            async for piece in self._model.write(asked):
                yield piece
        except Problem as problem:
            yield problem

    async def check_health(self) -> None:
        """As for `Replica`."""
        await Replica.check_health(self)  # type: ignore[arg-type] - has the same methods

    async def __del__(self) -> None:
        if hasattr(self, "_model"):
            await self._model.stop()


class RemoteText:
    """A language model behind Ray. A text is never restarted: its reader has already seen part of it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def about(self) -> About:
        return await self._handle.about.remote()

    async def status(self) -> tuple[bool, bool]:
        return await Remote(self._handle).status()

    async def write(self, asked: "TextAsked") -> "AsyncIterator[Piece]":
        """The pieces from a replica.

        Raises:
            Problem: why there are none, or no more.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, RayServeException

        try:
            async for piece in self._handle.options(stream=True).write.remote(asked):
                if isinstance(piece, Problem):
                    raise piece
                yield piece
        except BackPressureError as error:
            raise Problem("full", "too many texts wait for a replica: retry in 5 s", 5) from error
        except (RayActorError, RayServeException) as error:
            raise Problem("failed", "the replica died with this text: retry") from error


class Remote:
    """A model behind Ray: one of its replicas answers.

    Arguments:
        handle: of the deployment.
        clock: seconds.
    """

    def __init__(self, handle: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        self._handle, self._clock = handle, clock

    async def about(self) -> About:
        return await self._handle.about.remote()

    async def status(self) -> tuple[bool, bool]:
        """Ray itself monitors the health of replicas; here it only matters whether one accepts requests."""
        try:
            _, ready = await asyncio.wait_for(self._handle.status.remote(), _PATIENCE_S)
        except Exception:  # noqa: BLE001 - no replica, or it has just died
            return True, False
        return True, ready

    async def predict(self, asked: Asked) -> Reply:
        """The answer of a replica or, if it dies meanwhile, of another one: passes have no side effects.

        Raises:
            Problem: why there is no answer.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, RayServeException

        began = self._clock()
        for _ in range(_TRIES):
            waited = max(0.0, 1000 * (self._clock() - began))
            try:
                found = await self._handle.predict.remote(replace(asked, waited_ms=asked.waited_ms + waited))
            except BackPressureError as error:
                raise Problem("full", "too many requests wait for a replica: retry in 1 s", 1) from error
            except (RayActorError, RayServeException):
                continue
            if isinstance(found, Problem):
                raise found
            return found
        raise Problem("failed", f"{_TRIES} replicas died with this request, or none is available: retry later")


class Ingress:
    """The entry point of requests; Ray runs as many as configured."""

    def __init__(self, limits: Limits, models: Mapping[str, Any], writers: Mapping[str, Any]) -> None:
        self._limits = limits
        self._models = {name: Remote(handle) for name, handle in models.items()}
        self._writers = {name: RemoteText(handle) for name, handle in writers.items()}

    def __serve_build_asgi_app__(self) -> Any:  # part of Ray's protocol
        metrics = Metrics(OfRay())
        return application(
            self._models, writers=self._writers, limits=self._limits, metrics=metrics, names_requests=False
        )


def ray_application(models: Mapping[str, Deployed], limits: Limits | None = None) -> Any:
    """The application for `ray.serve.run`.

    Arguments:
        models: by name.
        limits: of requests.
    """
    from ray import serve

    bound = {name: _deployment(name, model).bind(model.open) for name, model in models.items()}
    writers = {name: each for name, each in bound.items() if models[name].text}
    others = {name: each for name, each in bound.items() if not models[name].text}
    # Each ingress builds its own application, because its metrics belong to one process.
    made: Any = serve.ingress()(Ingress)
    ingress = serve.deployment(
        name=INGRESS,
        max_ongoing_requests=_MOST_AT_ONCE,
        ray_actor_options={"num_cpus": 0},  # it only waits for replicas
        graceful_shutdown_timeout_s=DRAIN_S,
    )(made)
    return ingress.bind(limits or Limits(), others, writers)


def _deployment(name: str, model: Deployed) -> Any:
    from ray import serve

    if name == INGRESS:
        raise BudgetError(f"a model named {INGRESS!r} would replace the ingress: choose another name")
    # The network's own queue plans best if it sees all waiting requests, so Ray holds none back.
    usual = {
        "name": name,
        "max_ongoing_requests": 2 * model.waiting,
        "max_queued_requests": model.waiting,
        "max_constructor_retry_count": 1,  # what cannot be opened now cannot be opened later
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": DRAIN_S,
        "health_check_period_s": 5,
    }
    return serve.deployment(**{**usual, **model.options})(TextReplica if model.text else Replica)


# -- a cluster ----------------------------------------------------------------------------------------------------


@contextmanager
def cluster(**options: Any) -> Iterator[None]:
    """A Ray cluster, that of `RAY_ADDRESS` or a new one on this machine; stops what it started.

    Arguments:
        **options: of `ray.init`, for a new one.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry without consent
    with importable():
        import ray
        from ray import serve

        own = not ray.is_initialized()
        if own:
            quiet = {"log_to_driver": False, "logging_level": "warning"}
            new = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, **options}
            ray.init(**quiet, **new)
        try:
            yield
        finally:
            serve.shutdown()
            if own:
                ray.shutdown()


def deploy(app: Any, host: str, port: int) -> None:
    """Run an application on the cluster, once all its models are ready.

    Raises:
        ArtifactError: a model that cannot be opened.
    """
    from ray import serve

    serve.start(http_options={"host": host, "port": port}, logging_config=_QUIET)
    run(app, "adaptive-depth", "/")


def run(app: Any, name: str, prefix: str) -> None:
    """Run an application alongside others.

    Raises:
        ArtifactError: a model that cannot be opened.
    """
    from ray import serve

    try:
        serve.run(app, name=name, route_prefix=prefix, logging_config=_QUIET)
    except RuntimeError as error:
        # The exception names only the deployment; the reason is in its status.
        said = [str(each.message) for each in serve.status().applications[name].deployments.values()]
        reason = next((line for text in said for line in reversed(text.splitlines()) if "Error" in line), str(error))
        raise ArtifactError(f"Ray could not start the models: {one_line(RuntimeError(reason))}") from error


def metrics_address() -> str | None:
    """Where Prometheus finds this node's metrics; None if Ray does not export them."""
    import ray

    for node in ray.nodes():
        if node["Alive"] and node.get("MetricsExportPort"):
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None


@contextmanager
def importable() -> Iterator[None]:
    """Makes Ray importable, here and in its processes.

    Ray queries accelerators through amdsmi, which raises a KeyError if AMD's library is missing, where Ray expects an
    ImportError (ray 2.60; amdsmi 7.0, installed with zeus by the extra `energy`). In that case amdsmi is hidden.
    """
    # An entry of None means that it is already hidden.
    if sys.modules.get("amdsmi", sys) is None or not _has_broken_amdsmi():
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="adaptive-depth-"))
    # The file hides it from Ray's processes, the entry below from this one.
    (folder / "amdsmi.py").write_text("raise ImportError('hidden: it has no library')\n")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    sys.modules["amdsmi"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["amdsmi"]
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _has_broken_amdsmi() -> bool:
    if importlib.util.find_spec("amdsmi") is None:
        return False
    with redirect_stdout(io.StringIO()):  # it prints what is missing
        try:
            importlib.import_module("amdsmi")
        except ImportError:
            return False
        except Exception:  # noqa: BLE001 - any kind: Ray would fail with it
            return True
    return False
