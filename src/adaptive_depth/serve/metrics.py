"""A server's metrics: depths that ran, answers in time, requests turned away, queue length and latency."""

from collections.abc import Iterable
from typing import Any, Protocol

# How a request may end. Under the server's own target, answers may be late; with a deadline, late ones are refused.
OUTCOMES = ("in_time", "answered_late", "late", "shed", "full", "failed", "refused", "cancelled", "stopping")
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)

_PREFIX = "adaptive_depth"
_COUNTERS = {
    "requests": ("Requests by outcome: in_time is the goodput.", ("model", "outcome")),
    "served": ("Answers by depth.", ("model", "skip")),
    "worth": ("Total worth of the answers in time: the table's quality in percent, divided by 100.", ("model",)),
}
_HISTOGRAMS = {
    "latency_seconds": ("From a complete request to its answer.", SECONDS, ("model",)),
    "batch_size": ("Requests that ran together.", BATCHES, ("model", "skip")),
}
_GAUGES = {"waiting": ("Requests waiting at present.", ("model",))}


class Watch(Protocol):
    """Is notified of what happens to requests."""

    def ended(self, outcome: str) -> None: ...

    def answered(self, skip: str, seconds: float, worth: float) -> None: ...

    def ran(self, skip: str, batch: int) -> None: ...

    def waiting(self, number: int) -> None: ...


class Nobody:
    """Counts nothing."""

    def ended(self, outcome: str) -> None: ...

    def answered(self, skip: str, seconds: float, worth: float) -> None: ...

    def ran(self, skip: str, batch: int) -> None: ...

    def waiting(self, number: int) -> None: ...


class Metrics:
    """Counts for several models, for Prometheus.

    Arguments:
        kinds: creates the metrics: `Prometheus` for one process, `OfRay` for a cluster.
    """

    def __init__(self, kinds: "Kinds") -> None:
        self._counters = {name: kinds.counter(f"{_PREFIX}_{name}", *about) for name, about in _COUNTERS.items()}
        self._histograms = {name: kinds.histogram(f"{_PREFIX}_{name}", *about) for name, about in _HISTOGRAMS.items()}
        self._gauges = {name: kinds.gauge(f"{_PREFIX}_{name}", *about) for name, about in _GAUGES.items()}
        self._models: dict[str, _OfModel] = {}

    def of(self, model: str) -> "Watch":
        """The watch that counts for one model."""
        if model not in self._models:
            self._models[model] = _OfModel(self, model)
        return self._models[model]

    def count(self, name: str, value: float, **labels: str) -> None:
        self._counters[name](value, labels)

    def see(self, name: str, value: float, **labels: str) -> None:
        self._histograms[name](value, labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        self._gauges[name](value, labels)


class _OfModel:
    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        for outcome in OUTCOMES:  # start at 0, so that rates include the first request
            metrics.count("requests", 0, model=model, outcome=outcome)
        self.waiting(0)

    def ended(self, outcome: str) -> None:
        self._metrics.count("requests", 1, model=self._model, outcome=outcome)

    def answered(self, skip: str, seconds: float, worth: float) -> None:
        self._metrics.count("served", 1, model=self._model, skip=skip)
        self._metrics.count("worth", worth, model=self._model)
        self._metrics.see("latency_seconds", seconds, model=self._model)

    def ran(self, skip: str, batch: int) -> None:
        self._metrics.see("batch_size", batch, model=self._model, skip=skip)

    def waiting(self, number: int) -> None:
        self._metrics.set("waiting", number, model=self._model)


class Kinds(Protocol):
    """Creates metrics: each a function of a value and its labels."""

    def counter(self, name: str, about: str, labels: Iterable[str]) -> Any: ...

    def histogram(self, name: str, about: str, bounds: Iterable[float], labels: Iterable[str]) -> Any: ...

    def gauge(self, name: str, about: str, labels: Iterable[str]) -> Any: ...


class Prometheus:
    """Metrics of this process, in their own registry.

    Example:
        >>> prometheus = Prometheus()
        >>> watch = Metrics(prometheus).of("cats")
        >>> watch.answered("TTFF", 0.02, 0.75)
        >>> [line for line in prometheus.text().decode().splitlines() if line.startswith("adaptive_depth_served_total")]
        ['adaptive_depth_served_total{model="cats",skip="TTFF"} 1.0']
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry

        self.registry = CollectorRegistry()

    def counter(self, name: str, about: str, labels: Iterable[str]) -> Any:
        from prometheus_client import Counter

        made = Counter(name, about, tuple(labels), registry=self.registry)
        return lambda value, told: made.labels(**told).inc(value)

    def histogram(self, name: str, about: str, bounds: Iterable[float], labels: Iterable[str]) -> Any:
        from prometheus_client import Histogram

        made = Histogram(name, about, tuple(labels), buckets=tuple(bounds), registry=self.registry)
        return lambda value, told: made.labels(**told).observe(value)

    def gauge(self, name: str, about: str, labels: Iterable[str]) -> Any:
        from prometheus_client import Gauge

        made = Gauge(name, about, tuple(labels), registry=self.registry)
        return lambda value, told: made.labels(**told).set(value)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class OfRay:
    """Metrics of the cluster: Ray aggregates them and exports them on each node's own port."""

    def counter(self, name: str, about: str, labels: Iterable[str]) -> Any:
        from ray.util.metrics import Counter

        made = Counter(name, description=about, tag_keys=tuple(labels))
        # Ray rejects increments by 0, which would only announce the label.
        return lambda value, told: made.inc(value, tags=told) if value > 0 else None

    def histogram(self, name: str, about: str, bounds: Iterable[float], labels: Iterable[str]) -> Any:
        from ray.util.metrics import Histogram

        made = Histogram(name, description=about, boundaries=[*bounds], tag_keys=tuple(labels))
        return lambda value, told: made.observe(value, tags=told)

    def gauge(self, name: str, about: str, labels: Iterable[str]) -> Any:
        from ray.util.metrics import Gauge

        made = Gauge(name, description=about, tag_keys=tuple(labels))
        return lambda value, told: made.set(value, tags=told)
