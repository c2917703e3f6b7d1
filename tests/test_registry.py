"""`registry.py`: things by name, one error for a name that is unknown or taken."""

import pytest

from adaptive_depth.errors import ArtifactError
from adaptive_depth.registry import Registry


def test_what_is_registered_is_found_in_its_order() -> None:
    known: Registry[int] = Registry("backend", ArtifactError)
    assert known.register("one")(1) == 1
    known.register("two")(2)
    assert (list(known), len(known), known["two"], known.take("one"), "three" in known) == (
        ["one", "two"],
        2,
        2,
        1,
        False,
    )


@pytest.mark.parametrize("name", ["three", None, [], 3])
def test_a_name_that_is_unknown_lists_the_known_ones(name: object) -> None:
    known: Registry[int] = Registry("backend", ArtifactError)
    known.register("one")(1)
    with pytest.raises(ArtifactError, match=r"^backend=.*: expected one of one$"):
        known.take(name)
    with pytest.raises(ArtifactError, match=r"^to=.*: expected one of one$"):
        known.take(name, "to")


def test_a_name_is_taken_once() -> None:
    known: Registry[int] = Registry("backend", ArtifactError)
    known.register("one")(1)
    with pytest.raises(ArtifactError, match="backend 'one' is registered twice; known: one"):
        known.register("one")(2)
    assert known["one"] == 1
