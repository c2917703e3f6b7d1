"""Words at which a text stops are never shown, not even their beginning, and nothing else is lost."""

import random

import pytest

from adaptive_depth.serve.text.pieces import Stops


@pytest.mark.parametrize("seed", range(20))
def test_any_text_by_any_pieces(seed: int) -> None:
    noise = random.Random(seed)
    for _ in range(50):
        text = "".join(noise.choice("ab ") for _ in range(30))
        words = tuple("".join(noise.choice("ab ") for _ in range(noise.randrange(1, 4))) for _ in range(2))
        ends = [text.find(word) for word in words if word in text]
        wanted = text[: min(ends)] if ends else text
        stops, shown, at = Stops(words), "", 0
        while at < len(text) and not stops.met:
            at = min(len(text), at + noise.randrange(1, 4))
            shown += stops.take(text[:at])
            assert wanted.startswith(shown)
        shown += stops.rest(text)
        assert (shown, stops.met) == (wanted, bool(ends))


def test_half_a_character_is_held_back() -> None:
    stops = Stops()
    assert [stops.take("caf\ufffd"), stops.take("café"), stops.rest("café")] == ["caf", "é", ""]
