"""What is counted, as Prometheus reads it."""

from adaptive_depth.serve.metrics import OUTCOMES, Metrics, Prometheus
from adaptive_depth.serve.problems import KINDS


def test_every_problem_is_counted_as_something_that_is_known() -> None:
    assert {kind.outcome for kind in KINDS.values()} <= {*OUTCOMES}


def test_counts_of_two_models_are_apart() -> None:
    prometheus = Prometheus()
    metrics = Metrics(prometheus)
    cats, dogs = metrics.of("cats"), metrics.of("dogs")
    assert metrics.of("cats") is cats
    cats.waiting(3)
    cats.ended("shed")
    dogs.answered("TF", 0.03, 0.75)
    dogs.ran("TF", 4)
    lines = prometheus.text().decode().splitlines()
    for line in (
        'adaptive_depth_waiting{model="cats"} 3.0',
        'adaptive_depth_waiting{model="dogs"} 0.0',
        'adaptive_depth_requests_total{model="cats",outcome="shed"} 1.0',
        'adaptive_depth_requests_total{model="dogs",outcome="shed"} 0.0',
        'adaptive_depth_served_total{model="dogs",skip="TF"} 1.0',
        'adaptive_depth_worth_total{model="dogs"} 0.75',
        'adaptive_depth_latency_seconds_bucket{le="0.02",model="dogs"} 0.0',
        'adaptive_depth_latency_seconds_bucket{le="0.05",model="dogs"} 1.0',
        'adaptive_depth_batch_size_bucket{le="4.0",model="dogs",skip="TF"} 1.0',
    ):
        assert line in lines
