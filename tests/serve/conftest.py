"""Networks without numbers to compute, that can be slow, broken or stuck; and a real server for them on loopback."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import adaptive_depth as ad
from adaptive_depth.governor.scheduler import DepthScheduler
from adaptive_depth.preprocessing import Preprocessing
from adaptive_depth.serve.batching import Batcher
from adaptive_depth.serve.inputs import Limits
from adaptive_depth.serve.predicting import Predictor

# ms of 1 and 4: F 20 and 32, T 10 and 16.
TABLE = ad.TradeOffs(
    (
        ad.Row("F", 80.0, 400, 9, 20.0, throughput={1: 50.0, 4: 125.0}),
        ad.Row("T", 60.0, 200, 5, 10.0, throughput={1: 100.0, 4: 250.0}),
    )
)
SHAPE = (1, 2, 2)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Net:
    """Adds 1 at depth F and 2 at depth T. What it is given is kept; a pass waits while the gate is shut."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.passes: list[tuple[str, list[float]]] = []  # depth, and the first number of each input
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()
        self.broken: Callable[[Any], bool] = lambda x: False

    def __call__(self, x: Any, skip: str) -> Any:
        self.passes.append((skip, [float(each.reshape(-1)[0]) for each in x]))
        self.began.set()
        assert self.gate.wait(20)
        time.sleep(self.seconds)
        if self.broken(x):
            raise ad.errors.ArtifactError("the device is on fire")
        return x.reshape(len(x), -1) + {"F": 1, "T": 2}[skip]


def input_of(number: float) -> np.ndarray:
    return np.full(SHAPE, number, np.float32)


def batcher_of(net: Any, *, deadline_ms: float = 60_000.0, shed: str | None = "oldest", **options: Any) -> Batcher:
    """By default nobody is in a hurry: what a slow machine does must not decide a test."""
    clock = options.pop("clock", time.monotonic)
    scheduler = DepthScheduler(TABLE, deadline_ms, shed=shed, clock=clock)
    return Batcher(net, scheduler, table=TABLE, skips=("F", "T"), clock=clock, **options)


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.gate.set()  # its thread may end


PREPROCESSING = Preprocessing(image_size=2, channels=1, mean=(0.0,), std=(1.0,), interpolation="nearest")
LABELS = ("cat", "dog", "hen", "owl")
LIMITS = Limits(bytes=20_000, pixels=40_000, seconds=1.0)


def predictor_of(net: Any, name: str = "cats", watch: Any = None, **options: Any) -> Predictor:
    from adaptive_depth.deploy.predictions import Reader
    from adaptive_depth.serve.predicting import About

    about = About(name, {"F": 80.0, "T": 60.0}, "top-1 (%)", 60_000.0, SHAPE, images=True)
    batcher = batcher_of(net, watch=watch, **options)
    return Predictor(about, batcher, PREPROCESSING, Reader(LABELS), LIMITS, watch=watch)


@contextmanager
def serving(net: Any, **options: Any) -> Iterator[str]:
    """The address of a server in a thread of its own, under uvicorn."""
    import uvicorn

    from adaptive_depth.serve.application import application
    from adaptive_depth.serve.local import address_of, bound
    from adaptive_depth.serve.metrics import Metrics, Prometheus

    prometheus = Prometheus()
    metrics = Metrics(prometheus)
    model = predictor_of(net, watch=metrics.of("cats"), **options)
    app = application(
        {"cats": model}, limits=LIMITS, metrics=metrics, metrics_text=prometheus.text, running=lambda: model
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=5))
    with bound("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield address_of(listening)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def server(net: Net) -> Iterator[str]:
    with serving(net) as address:
        yield address
