"""Problems as RFC 9457 has them, also from another process."""

import pickle

from adaptive_depth.serve.problems import Problem


def test_a_problem_survives_its_way_between_processes() -> None:
    problem = pickle.loads(pickle.dumps(Problem("full", "256 requests wait", 3)))
    assert problem.to_json() == {
        "type": "urn:adaptive-depth:full",
        "title": "Too many requests wait",
        "status": 503,
        "detail": "256 requests wait",
    }
    assert problem.headers == {"Retry-After": "3"}
