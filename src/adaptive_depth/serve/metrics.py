"""What is counted of a server: depths that ran, answers in time, who was turned away, how many wait, how long."""

from collections.abc import Iterable
from typing import Any, Protocol

# How a request may end. What is answered under the server's own target may be late; what named a deadline is refused.
OUTCOMES = ("in_time", "answered_late", "late", "shed", "full", "failed", "refused", "cancelled", "stopping")
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)

_PREFIX = "adaptive_depth"
_COUNTERS = {
    "requests": ("Requests by how they ended: goodput is those in_time.", ("model", "outcome")),
    "served": ("Answers by the depth that they are of.", ("model", "skip")),
    "worth": ("What answers in time are worth, added up: the table's quality in percent is one hundredth.", ("model",)),
}
_HISTOGRAMS = {
    "latency_seconds": ("From a whole request to its answer.", SECONDS, ("model",)),
    "batch_size": ("Requests that ran together.", BATCHES, ("model", "skip")),
}
_GAUGES = {"waiting": ("Requests that wait at present.", ("model",))}


class Watch(Protocol):
    """Who is told what happens to requests."""

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
    """Counts for several models, in what Prometheus reads.

    Arguments:
        kinds: what makes them: `Prometheus` for one process, `OfRay` for a cluster.
    """

    def __init__(self, kinds: "Kinds") -> None:
        self._counters = {name: kinds.counter(f"{_PREFIX}_{name}", *about) for name, about in _COUNTERS.items()}
        self._histograms = {name: kinds.histogram(f"{_PREFIX}_{name}", *about) for name, about in _HISTOGRAMS.items()}
        self._gauges = {name: kinds.gauge(f"{_PREFIX}_{name}", *about) for name, about in _GAUGES.items()}
        self._models: dict[str, _OfModel] = {}

    def of(self, model: str) -> "Watch":
        """Who counts for one model."""
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
        for outcome in OUTCOMES:  # so that a rate can be taken from the first one on
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
    """What makes metrics: each a function of a value and its labels."""

    def counter(self, name: str, about: str, labels: Iterable[str]) -> Any: ...

    def histogram(self, name: str, about: str, bounds: Iterable[float], labels: Iterable[str]) -> Any: ...

    def gauge(self, name: str, about: str, labels: Iterable[str]) -> Any: ...


class Prometheus:
    """Metrics of this process, in a registry of their own.

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
        """All of them, as Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class OfRay:
    """Metrics of the cluster: Ray adds them up and shows them on each node's own port."""

    def counter(self, name: str, about: str, labels: Iterable[str]) -> Any:
        from ray.util.metrics import Counter

        made = Counter(name, description=about, tag_keys=tuple(labels))
        # Ray refuses to add nothing, which says no more than that it is there.
        return lambda value, told: made.inc(value, tags=told) if value > 0 else None

    def histogram(self, name: str, about: str, bounds: Iterable[float], labels: Iterable[str]) -> Any:
        from ray.util.metrics import Histogram

        made = Histogram(name, description=about, boundaries=[*bounds], tag_keys=tuple(labels))
        return lambda value, told: made.observe(value, tags=told)

    def gauge(self, name: str, about: str, labels: Iterable[str]) -> Any:
        from ray.util.metrics import Gauge

        made = Gauge(name, description=about, tag_keys=tuple(labels))
        return lambda value, told: made.set(value, tags=told)
